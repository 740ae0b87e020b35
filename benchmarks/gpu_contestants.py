"""Ways to train one language model on one GPU, each in a fresh process: `python -m benchmarks.gpu_contestants`.

The clock runs from the end of the first optimiser step to the end of the last, and waits for the GPU at both. Loading,
warm-up and saving are left out of it for everyone, and told apart as `wall_seconds`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import Progress, listen
from ftlib.stages.train import TrainJob, train
from ftlib.training.compute import Compute
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.workspace import Workspace, read_record

Contestant = Literal["reglage", "trainer", "trainer_tuned"]


class Task(Config):
    """What one process does."""

    contestant: Contestant
    start: str
    """The folder of the starting checkpoint."""
    data: str
    """The folder of the prepared rows, with an empty validation split: nobody evaluates while the clock runs."""
    batch_size: int
    epochs: float
    use_gpu: bool
    precision: Literal["fp32", "bf16"]
    seed: int
    threads: int

    @property
    def device(self) -> torch.device:
        """Return where it trains."""
        return torch.device("cuda" if self.use_gpu else "cpu")


class StepClock:
    """The end of the first and of the last of `steps` steps, with the GPU's work done."""

    def __init__(self, steps: int) -> None:
        self._steps, self._done = steps, 0
        self.first = self.last = 0.0

    def step(self) -> None:
        """Call at the end of every step."""
        self._done += 1
        if self._done in (1, self._steps):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.monotonic()
            self.first, self.last = (self.first or now), now

    def hear(self, progress: Progress) -> None:
        """Listen to the product's own progress: one sign of life per step."""
        if progress.unit == "steps":
            self.step()

    def seconds(self) -> float:
        """Return the time of all steps but the first. Raises RuntimeError unless every step was heard."""
        if self._done != self._steps:
            raise RuntimeError(f"{self._done} of {self._steps} steps were done")
        return self.last - self.first


def _steps(task: Task) -> int:
    rows = len(open_split(Path(task.data) / "train.arrow", ()))
    return round(task.epochs * rows / task.batch_size)


Trained = tuple[Callable[[], Any], dict[str, Any]]
"""The trained model, loaded when it is asked for, and what else there is to say."""


def train_by_reglage(task: Task, folder: Path, clock: StepClock) -> Trained:
    """Train by the product's stage, from the starting folder to the written model."""
    start, data = read_record(Path(task.start), Checkpoint), read_record(Path(task.data), PreparedDataset)
    assert start is not None
    assert data is not None
    phase = Phase(
        name="tune",
        dataset="rows",
        objective=CausalLM(),
        tuning=Full(),
        optimizer=AdamW(learning_rate=1e-4, epochs=task.epochs, batch_size=task.batch_size),
    )
    job = TrainJob(
        start=start,
        data=data,
        phase=phase,
        precision=task.precision,
        seed=task.seed,
        compute=Compute(workers=0, threads=task.threads, use_gpu=task.use_gpu),
    )
    with listen(clock.hear):
        done = train(job, Workspace(folder))
    return lambda: load_model(done.path / "model", "tokens").to(task.device), {"weights": done.weights}


def train_by_trainer(task: Task, folder: Path, clock: StepClock, **settings: Any) -> Trained:
    """Train by transformers' Trainer, rows in memory, padded by its own collator. It saves nothing."""
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

    split = open_split(Path(task.data) / "train.arrow", ())
    rows: Any = [{"input_ids": split.tokens(i).tolist()} for i in range(len(split))]
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(Path(task.start) / "model", dtype=torch.float32),
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=task.epochs,
            per_device_train_batch_size=task.batch_size,
            learning_rate=1e-4,
            warmup_steps=0.06,
            weight_decay=0.01,
            bf16=task.precision == "bf16",
            seed=task.seed,
            use_cpu=not task.use_gpu,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to=[],
            **settings,
        ),
        train_dataset=rows,
        data_collator=_padded,
        callbacks=[Watch()],
    )
    trainer.train()
    return lambda: trainer.model, {}


def train_by_tuned_trainer(task: Task, folder: Path, clock: StepClock) -> Trained:
    """Train by the Trainer with its switches for speed: rows of like length together, two processes that load."""
    return train_by_trainer(
        task,
        folder,
        clock,
        train_sampling_strategy="group_by_length",
        optim="adamw_torch_fused",
        dataloader_num_workers=2,
        dataloader_persistent_workers=True,
    )


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
    """Train, and say how fast, with how much memory, and how well."""
    torch.set_num_threads(task.threads)
    steps, split = _steps(task), open_split(Path(task.data) / "train.arrow", ())
    with tempfile.TemporaryDirectory() as name:
        began, clock = time.monotonic(), StepClock(steps)
        match task.contestant:
            case "reglage":
                trained, facts = train_by_reglage(task, Path(name), clock)
            case "trainer":
                trained, facts = train_by_trainer(task, Path(name), clock)
            case "trainer_tuned":
                trained, facts = train_by_tuned_trainer(task, Path(name), clock)
        wall, peak = time.monotonic() - began, torch.cuda.max_memory_allocated() if task.use_gpu else 0
        quality = held_out_loss(trained(), task)
    tokens = float(np.sum(split.lengths)) * task.epochs * (steps - 1) / steps  # the first step's are not timed
    return {
        **facts,
        "steps": steps,
        "tokens_per_second": tokens / clock.seconds(),
        "seconds_before_step_2": clock.first - began,
        "seconds_after_last_step": began + wall - clock.last,
        "wall_seconds": wall,
        "peak_gpu_bytes": peak,
        "held_out_loss": quality,
    }


if __name__ == "__main__":
    given, returned = map(Path, sys.argv[1:])
    returned.write_text(json.dumps(run(Task.model_validate_json(given.read_text()))))
