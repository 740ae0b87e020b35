"""The recipe's last phase as it stands when training starts: rows and starting weights made by the product's stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flows.run import jobs
from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, write_split
from ftlib.fingerprint import digest, file_digest
from ftlib.kinds.heads.labels import LabelTargets
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import check_labels
from ftlib.recipe.recipe import Recipe
from ftlib.stages.base import base
from ftlib.stages.ingest import ingest
from ftlib.stages.preprocess import preprocess
from ftlib.stages.train import TrainJob, train
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.training.precision import resolve_precision
from ftlib.workspace import RECORD, Workspace, read_record, write_durably


class Material(Config):
    """Folders and settings, so that it crosses to a fresh process as JSON."""

    start: str
    """The checkpoint the phase starts from."""
    data: str
    """A prepared dataset whose train split fills every batch, with an empty validation split: nobody evaluates."""
    test: str
    """The recipe's whole test split."""
    labels: tuple[str, ...]
    phase: Phase
    rows: int
    """Training rows, a multiple of the batch size."""

    @property
    def steps(self) -> int:
        """Return the optimiser steps of the whole phase."""
        return round(self.phase.optimizer.epochs * self.rows / self.phase.optimizer.batch_size)

    def job(self, compute: Compute, seed: int) -> TrainJob:
        """Return the phase as the product runs it."""
        start, data = read_record(Path(self.start), Checkpoint), read_record(Path(self.data), PreparedDataset)
        assert start is not None
        assert data is not None
        precision = resolve_precision(self.phase, compute)
        return TrainJob(start=start, data=data, phase=self.phase, precision=precision, seed=seed, compute=compute)


def prepare(recipe: Path, overrides: list[str], work: Path, rows: int | None) -> Material:
    """Run every stage before the recipe's last phase, and cut its training rows to `rows` (all if None)."""
    read = load_recipe(recipe, overrides)
    space = Workspace(work)
    model = find_model(read.model)
    raw = {name: ingest(jobs.ingest_job(read, name), space) for name in read.datasets}
    prepared = {name: preprocess(jobs.preprocess_job(read, name, raw, model), space) for name in read.datasets}
    trail = [base(jobs.base_job(read, model, check_labels(read, prepared)), space)]
    for phase in read.phases[:-1]:
        trail.append(train(jobs.train_job(_in_process(read), phase, trail, prepared, {}), space))
    start, phase = trail[-1], read.phases[-1]
    (name,) = phase.parts
    data = prepared[name]
    cut = _full_batches(data, start.labels, phase.optimizer.batch_size, rows, space.root / "benchmarks")
    return Material(
        start=start.uri,
        data=cut.uri,
        test=str(split_file(data.path, "test")),
        labels=start.labels,
        phase=phase,
        rows=cut.splits["train"].rows,
    )


def _in_process(recipe: Recipe) -> Recipe:
    return recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"workers": 0})})


def _full_batches(
    data: PreparedDataset, labels: tuple[str, ...], batch_size: int, rows: int | None, folder: Path
) -> PreparedDataset:
    """Write a dataset whose training rows are a random part of `data`'s, and whose other splits are empty."""
    split = open_split(split_file(data.path, "train"), labels)
    assert isinstance(split.targets, LabelTargets)
    gold = split.targets.positions
    count = min(rows or len(split), len(split)) // batch_size * batch_size
    if not count:
        raise ValueError(f"--rows: {rows} of {len(split)} rows fill no batch of {batch_size}")
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
    kept = [
        PreparedRow(str(split.row_ids[int(row)]), {"input_ids": split.tokens(int(row)).tolist()}, labels[gold[row]])
        for row in chosen
    ]
    cut = folder / f"{data.fingerprint}-{count}"
    cut.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        write_split(split_file(cut, name), "labeled", kept if name == "train" else [])
    facts = data.splits["train"].model_copy(update={"rows": count, "supervised": count})
    content = digest([file_digest(split_file(cut, name)) for name in SPLITS])
    record = data.model_copy(update={"content": content, "uri": str(cut), "splits": {**data.splits, "train": facts}})
    write_durably(cut / RECORD, record.model_dump_json().encode())
    return record
