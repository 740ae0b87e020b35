"""What the tests of whole stages share: tiny rows through ingest, preprocess and train, with the model they are for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import Measured
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_classifier, write_jsonl
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

COMPUTE = Compute(workers=0, threads=1)


class Bench:
    """Rows prepared in one format, the base model with a head for them, and a phase that trains it.

    With `other_labels` the model comes with a head for those: its config must not leak into the new one.
    """

    def __init__(
        self,
        folder: Path,
        rows: Sequence[Mapping[str, Any]],
        *,
        format: dict[str, Any],
        objective: str,
        epochs: float,
        labels: tuple[str, ...] = (),
        other_labels: Sequence[str] | None = None,
    ) -> None:
        self.work, self.folder = Workspace(folder / "work"), folder
        self.model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny", other_labels))))
        self.format, self.objective, self.epochs = format, objective, epochs
        self.rows, self.data = rows, self.prepare(rows)
        self.start = base(BaseJob(model=self.model, kind=self.data.kind, labels=labels, seed=1), self.work)

    def prepare(self, rows: Sequence[Mapping[str, Any]], **format: Any) -> PreparedDataset:
        """Prepare other rows, or the same in another way."""
        path = write_jsonl(self.folder / f"{len([*self.folder.glob('*.jsonl')])}.jsonl", rows)
        facts = {"source": {"kind": "files", "path": str(path)}, "format": {**self.format, **format}}
        dataset = Dataset.model_validate(facts)
        job = IngestJob(name="mail", source=dataset.source, files=dataset.source.pin(), limits=dataset.limits)
        return preprocess(
            PreprocessJob(
                name="mail",
                raw=ingest(job, self.work),
                dataset=dataset,
                model=self.model,
                tokenizer=self.model.tokenizer,
                trains=True,
            ),
            self.work,
        )

    def train(self, root: Path, tuning: str = "full", **compute: Any) -> Checkpoint:
        phase = Phase.model_validate(
            {
                "name": "tune",
                "dataset": "mail",
                "objective": {"kind": self.objective},
                "tuning": {"kind": tuning},
                "optimizer": AdamW(learning_rate=3e-3, epochs=self.epochs, batch_size=16),
                "dropout": 0.0,
            }
        )
        job = TrainJob(
            start=self.start,
            data=self.data,
            phase=phase,
            precision="fp32",
            seed=7,
            compute=COMPUTE.model_copy(update=compute),
        )
        return train(job, Workspace(root))

    def measure(
        self, checkpoint: Checkpoint, metrics: Sequence[Metric], data: PreparedDataset | None = None
    ) -> tuple[Measured, Outcomes]:
        """Return what the evaluate stage says of a checkpoint's answers to the test rows, and their table."""
        job = EvaluateJob(
            name="target",
            evaluation=Evaluation(dataset="mail", metrics=tuple(metrics), resamples=100),
            candidates=(Candidate.of(checkpoint),),
            data=data or self.data,
            split="test",
            seed=0,
            compute=COMPUTE,
        )
        (cell,) = evaluate(job, self.work).measured
        return cell, read_outcomes(self.work.root / cell.outcomes)


def losses(checkpoint: Checkpoint) -> list[float]:
    """Return the loss of every step that was recorded."""
    return [record["loss"] for record in curves.read(checkpoint.path / curves.FILE) if "loss" in record]
