"""Ways to train the same phase, each in a fresh process: `python -m benchmarks.contestants TASK.json OUTCOME.json`.

The clock runs from the end of the first optimiser step to the end of the last: loading, warm-up and saving are left
out for everyone. Afterwards the test rows are predicted by one and the same code.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.material import Material
from ftlib.config import Config
from ftlib.evaluation.forward_pass import predict_split
from ftlib.kinds.heads.labels import LabelTargets
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.folder import weights_digest
from ftlib.progress import Progress, listen
from ftlib.stages.train import train
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

Contestant = Literal["reglage", "reglage_ray", "trainer", "trainer_tuned", "trainer_tuned_loader"]


class Task(Config):
    """What one process does."""

    contestant: Contestant
    material: Material
    threads: int
    seed: int
    workers: int = 1
    """Of `reglage_ray`."""


class StepClock:
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu_ends: list[float] = []

    def step(self) -> None:
        """Call at the end of every step."""
        self.ends.append(time.monotonic())
        self.cpu_ends.append(time.process_time())

    def hear(self, progress: Progress) -> None:
        """Listen to the product's own progress: one sign of life per step."""
        if progress.unit == "steps":
            self.step()

    def rates(self, batch_size: int) -> dict[str, float]:
        """Return samples per second, and per second of all cores' time, which neighbours disturb far less."""
        samples = (len(self.ends) - 1) * batch_size
        return {
            "samples_per_second": samples / (self.ends[-1] - self.ends[0]),
            "samples_per_cpu_second": samples / (self.cpu_ends[-1] - self.cpu_ends[0]),
        }


def train_in_process(task: Task, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train by the product's loop in this process."""
    clock = StepClock()
    with listen(clock.hear):
        done = train(task.material.job(Compute(workers=0, threads=task.threads), task.seed), Workspace(folder))
    assert len(clock.ends) == task.material.steps
    rates = clock.rates(task.material.phase.optimizer.batch_size)
    return done.path, {**rates, "loop_samples_per_second": done.facts["samples_per_second"]}


def train_on_ray(task: Task, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train by the product's loop on Ray workers; steps are timed by the workers themselves."""
    compute = Compute(workers=task.workers, threads=task.threads // task.workers)
    done = train(task.material.job(compute, task.seed), Workspace(folder))
    rate = done.facts["samples_per_second"]
    peak = int(done.facts["peak_memory_bytes"]) >> 20  # the first worker's: this process only waits
    return done.path, {"samples_per_second": rate, "loop_samples_per_second": rate, "peak_megabytes": peak}


def train_by_trainer(task: Task, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Train by a bare transformers Trainer: what a script gets that names only epochs, batch size and rate."""
    return _trainer(task, folder, {})


def train_by_tuned_trainer(task: Task, folder: Path, loader_workers: int = 0) -> tuple[Path, dict[str, Any]]:
    """Train by the Trainer with every switch for speed that it has."""
    from ftlib.training.precision import resolve_precision

    settings: dict[str, Any] = {
        "train_sampling_strategy": "group_by_length",
        "optim": "adamw_torch_fused",
        "bf16": resolve_precision(task.material.phase, Compute()) == "bf16",
        "dataloader_pin_memory": False,
        "dataloader_num_workers": loader_workers,
        "dataloader_persistent_workers": loader_workers > 0,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }
    return _trainer(task, folder, settings)


def _trainer(task: Task, folder: Path, settings: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    material, optimizer = task.material, task.material.phase.optimizer
    split = open_split(Path(material.data) / "train.arrow", material.labels)
    assert isinstance(split.targets, LabelTargets)
    gold = split.targets.positions
    rows = [{"input_ids": split.tokens(i).tolist(), "labels": int(gold[i])} for i in range(len(split))]
    # A tuned script keeps a few thousand tokenised rows in memory; a bare one has them in a Dataset.
    dataset: Any = rows if settings else Dataset.from_list(rows)
    clock = StepClock()

    class Watch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.step()

    source = Path(material.start) / "model"
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(source),
        args=TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=optimizer.epochs,
            per_device_train_batch_size=optimizer.batch_size,
            learning_rate=optimizer.learning_rate,
            seed=task.seed,
            use_cpu=True,
            **settings,
        ),
        train_dataset=dataset,
        data_collator=DataCollatorWithPadding(AutoTokenizer.from_pretrained(source)),
        callbacks=[Watch()],
    )
    trainer.train()
    assert len(clock.ends) == material.steps
    trainer.save_model(str(folder / "model"))
    return folder, dict(clock.rates(optimizer.batch_size))


def run(task: Task) -> dict[str, Any]:
    """Train and predict the test rows."""
    torch.set_num_threads(task.threads)
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        match task.contestant:
            case "reglage":
                done, facts = train_in_process(task, Path(name))
            case "reglage_ray":
                done, facts = train_on_ray(task, Path(name))
            case "trainer":
                done, facts = train_by_trainer(task, Path(name))
            case "trainer_tuned":
                done, facts = train_by_tuned_trainer(task, Path(name))
            case "trainer_tuned_loader":
                done, facts = train_by_tuned_trainer(task, Path(name), loader_workers=1)
        facts["wall_seconds"] = time.monotonic() - began
        facts.setdefault("peak_megabytes", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
        facts["weights"] = weights_digest(done / "model")
        facts["losses"] = _losses(done)
        facts["correct"] = _correct(done / "model", task.material)
        return facts


def _losses(folder: Path) -> list[float]:
    from ftlib.training.curves import FILE, read

    return [record["loss"] for record in read(folder / FILE) if "loss" in record]


def _correct(model: Path, material: Material) -> list[bool]:
    split = open_split(Path(material.test), material.labels)
    outcomes = predict_split(load_model(model, "labeled"), split, material.labels, lambda: None)
    return (outcomes.gold == outcomes.predicted).tolist()


if __name__ == "__main__":
    given, returned = map(Path, sys.argv[1:])
    returned.write_text(json.dumps(run(Task.model_validate_json(given.read_text()))))
