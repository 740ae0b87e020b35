"""Ways to train one language model on one GPU, each in a fresh process: `python -m benchmarks.gpu_contestants`.

The clock runs from the end of the first optimiser step to the end of the last, both on the GPU's own clock. Loading,
warm-up, compiling and saving are left out of it for everyone, and told apart as `seconds_before_step_2`.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.gpu_settings import LORA, OPTIMIZER, SIZES, Contestant, Size, settings_of
from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.train import TrainJob, train
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace, read_record


class Task(Config):
    """What one process does."""

    contestant: Contestant
    size: str
    start: str
    """The folder of the starting checkpoint."""
    data: str
    """The folder of the prepared rows, with an empty validation split: nobody evaluates while the clock runs."""
    batch_size: int
    use_gpu: bool
    precision: str
    seed: int
    threads: int

    @property
    def device(self) -> torch.device:
        """Return where it trains."""
        return torch.device("cuda" if self.use_gpu else "cpu")

    @property
    def model(self) -> Size:
        """Return what is trained."""
        return SIZES[self.size]


class StepClock:
    """The end of every optimiser step, of whoever trains: by a hook of torch's, and on the GPU's own clock.

    Nobody waits for it: numbers are read when all is done.
    """

    def __init__(self, *, use_gpu: bool) -> None:
        self.ends: list[float] = []
        """When each step was queued, by the process's clock."""
        self._events: list[Any] | None = [] if use_gpu else None

    def __enter__(self) -> StepClock:
        self._hook = register_optimizer_step_post_hook(lambda *_: self._step())
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _step(self) -> None:
        self.ends.append(time.monotonic())
        if self._events is not None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)

    @property
    def steps(self) -> int:
        """Return how many there were."""
        return len(self.ends)

    def seconds(self) -> float:
        """Return the time of all steps but the first. Raises RuntimeError where there was no other."""
        if self.steps < 2:
            raise RuntimeError(f"{self.steps} steps were done; nothing to measure")
        if self._events is None:
            return self.ends[-1] - self.ends[0]
        torch.cuda.synchronize()
        return self._events[0].elapsed_time(self._events[-1]) / 1000


Trained = tuple[Callable[[], Any], dict[str, Any]]
"""The trained model, loaded when it is asked for, and what else there is to say: `losses`, `grad_norms`, ..."""


def train_by_reglage(task: Task, folder: Path) -> Trained:
    """Train by the product's stage, from the starting folder to the written model or adapter."""
    start, data = read_record(Path(task.start), Checkpoint), read_record(Path(task.data), PreparedDataset)
    assert start is not None
    assert data is not None
    phase = Phase(
        name="tune",
        dataset="rows",
        objective=CausalLM(),
        tuning=LoRA.model_validate({**LORA, "keep": "adapter"}) if task.model.lora else Full(),
        optimizer=AdamW.model_validate({**OPTIMIZER, "epochs": 1.0, "batch_size": task.batch_size}),
    )
    told = settings_of(task.contestant, task.model)
    job = TrainJob.model_validate(
        {
            "start": start,
            "data": data,
            "phase": phase,
            "precision": task.precision,
            "seed": task.seed,
            "compute": Compute.model_validate({**told, "threads": task.threads, "use_gpu": task.use_gpu}),
        }
    )
    done = train(job, Workspace(folder))
    read = [record for record in curves.read(done.path / curves.FILE) if "loss" in record]
    series = {"losses": [one["loss"] for one in read], "grad_norms": [one["grad_norm"] for one in read]}
    return lambda: load_model(done.path / "model", "tokens").to(task.device), {"weights": done.weights, **series}


def train_by_trainer(task: Task, folder: Path) -> Trained:
    """Train by transformers' Trainer, rows in memory, padded by a collator of ours. It saves nothing."""
    from transformers import Trainer, TrainingArguments

    split = open_split(Path(task.data) / "train.arrow", ())
    rows: Any = [{"input_ids": split.tokens(i).tolist()} for i in range(len(split))]
    model = _loaded(task)
    if task.model.lora:
        from peft import get_peft_model

        model = get_peft_model(model, _adapter())
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**_arguments(task, folder, len(rows))),
        train_dataset=rows,
        data_collator=_padded,
    )
    trainer.train()
    return lambda: trainer.model, _logged(trainer)


def train_by_sft(task: Task, folder: Path) -> Trained:
    """Train by TRL's SFTTrainer, rows already tokenised, padded or packed by its own collator. It saves nothing."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    from ftlib.testing import tiny_lm_tokenizer

    datasets.disable_progress_bars()
    split = open_split(Path(task.data) / "train.arrow", ())
    rows = datasets.Dataset.from_dict({"input_ids": [split.tokens(i).tolist() for i in range(len(split))]})
    trainer = SFTTrainer(
        model=_loaded(task),
        args=SFTConfig(**_arguments(task, folder, len(rows))),
        train_dataset=rows,
        processing_class=tiny_lm_tokenizer(),
        peft_config=_adapter() if task.model.lora else None,
    )
    trainer.train()
    return lambda: trainer.model, _logged(trainer)


def _loaded(task: Task) -> Any:
    """Load the starting weights in their file's own type, as both do unless they are told otherwise."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(Path(task.start) / "model", dtype="auto")


def _adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=LORA["rank"], lora_alpha=LORA["alpha"], target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )


def _arguments(task: Task, folder: Path, rows: int) -> dict[str, Any]:
    """Return what both rivals are told. Numbers are read every few steps, so that there is a curve."""
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1.0,
        "learning_rate": OPTIMIZER["learning_rate"],
        "warmup_steps": OPTIMIZER["warmup"],
        "weight_decay": OPTIMIZER["weight_decay"],
        "bf16": task.precision == "bf16",
        "seed": task.seed,
        "use_cpu": not task.use_gpu,
        "save_strategy": "no",
        "logging_steps": max(1, rows // task.batch_size // 8),
        "disable_tqdm": True,
        "report_to": [],
        **settings_of(task.contestant, task.model),
    }


def _logged(trainer: Any) -> dict[str, Any]:
    logged = [record for record in trainer.state.log_history if "loss" in record]
    return {
        "losses": [float(one["loss"]) for one in logged],
        "grad_norms": [float(one["grad_norm"]) for one in logged],
        "arguments": {key: value for key, value in trainer.args.to_dict().items() if not key.endswith("_dir")},
    }


def _padded(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad on the right with 0, which is the model's padding token; padding teaches nothing."""
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
        mask[i, : len(row["input_ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


@torch.no_grad()
def held_out_loss(model: torch.nn.Module, task: Task) -> float:
    """Return the mean loss over the test rows' tokens, each row alone, in fp32: one code for every contestant."""
    split = open_split(Path(task.data) / "test.arrow", ())
    total = tokens = 0.0
    for row in range(len(split)):
        ids = torch.tensor(split.tokens(row), device=task.device).long()[None]
        total += float(model.eval()(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    return total / tokens


def run(task: Task) -> dict[str, Any]:
    """Train, and say how fast, with how much memory, and how well.

    Raises RuntimeError where the gradient's norm was 0, or no number: what moves nothing is fast.
    """
    torch.set_num_threads(task.threads)
    train_by = {"reglage": train_by_reglage, "trainer": train_by_trainer, "sft": train_by_sft}
    split = open_split(Path(task.data) / "train.arrow", ())
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        with StepClock(use_gpu=task.use_gpu) as clock:
            trained, facts = train_by[task.contestant.partition("_")[0]](task, Path(name))
        timed = clock.seconds()
        wall, peak = time.monotonic() - began, torch.cuda.max_memory_allocated() if task.use_gpu else 0
        if not facts["grad_norms"] or not all(0 < norm < math.inf for norm in facts["grad_norms"]):
            raise RuntimeError(f"{task.contestant}: gradient norms {facts['grad_norms']}: nothing was trained")
        # An adapter's model is the base, and reading 8 B parameters again would take longer than training them.
        quality = {} if task.model.lora else {"held_out_loss": held_out_loss(trained(), task)}
    # The first step's are not timed; a packed step has about as many as any other.
    tokens = float(np.sum(split.lengths)) * (clock.steps - 1) / clock.steps
    return {
        **facts,
        **quality,
        "steps": clock.steps,
        "tokens_per_second": tokens / timed,
        "seconds_before_step_2": clock.ends[0] - began,
        "seconds_after_last_step": began + wall - clock.ends[-1],
        "wall_seconds": wall,
        "peak_gpu_bytes": peak,
    }


if __name__ == "__main__":
    given, returned = map(Path, sys.argv[1:])
    returned.write_text(json.dumps(run(Task.model_validate_json(given.read_text())), default=str))
