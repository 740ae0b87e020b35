"""A frozen model's numbers for every row that trains, computed once: a prepared dataset with a column more."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from ftlib.config import Name, Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import SPLITS, split_file
from ftlib.errors import ModelError
from ftlib.fingerprint import Job, digest, file_digest
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.companion import check_companion
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

SCORED: tuple[Split, ...] = ("train", "validation")
"""What training reads; test rows are left as they are."""
MEASURED: tuple[Split, ...] = ("validation", "test")
"""What evaluations read."""


class ScoreJob(Job):
    """Which model is asked about which rows, and what its column is called."""

    stage: ClassVar[str] = "score"
    version: ClassVar[int] = 1
    introduced: ClassVar[Mapping[str, object]] = {"splits": SCORED}

    name: Name
    model: FoundModel | Checkpoint
    data: PreparedDataset
    tokenizer: str
    """The digest of the tokenizer of the model that will train on them."""
    labels: tuple[str, ...]
    """Its labels, in the order of its logits."""
    precision: Literal["fp32", "bf16"]
    """In which it trains, or is measured."""
    splits: tuple[Split, ...] = SCORED
    """Which rows; the others are copied."""
    compute: Compute


def score(job: ScoreJob, work: Workspace) -> PreparedDataset:
    """Return the dataset with the column `score:<name>`, which batches carry as `columns[name]`.

    Of a language model it is log p(supervised tokens) of each row, in nats, of rows with two sequences that of each;
    of others the row's logits. Raises ModelError for a model with another tokenizer or other labels, for kinds whose
    rows have no one answer, and for numbers that are not finite.
    """
    return work.once(job, PreparedDataset, lambda folder: _build(job, folder, work), resumable=True)


def _build(job: ScoreJob, folder: Path, work: Workspace) -> PreparedDataset:
    """Copy the splits, with one more column in those that training reads."""
    from ftlib.evaluation.inference import infer_here
    from ftlib.evaluation.row_scores import ScorePlan

    where = f"score {job.name}"
    check_companion(where, job.model, job.tokenizer, job.labels)
    if KINDS[job.data.kind].answers_by_token:
        raise ModelError(f"{where}: {job.data.kind!r} rows have an answer for every token and none for the row")
    for split in SPLITS:
        if split not in job.splits:
            shutil.copyfile(split_file(job.data.path, split), split_file(folder, split))
    plan = ScorePlan(
        name=job.name,
        model=job.model,
        data=job.data,
        splits=job.splits,
        labels=job.labels,
        precision=job.precision,
        folder=str(folder),
        fingerprint=job.fingerprint,
        compute=job.compute,
    )
    if job.compute.infers_on_ray:
        from ftlib.on_ray.evaluator import infer

        infer(plan, work)
    else:
        infer_here(plan)
    told: tuple[Split, ...] = tuple(split for split in SPLITS if split in {*SCORED, *job.splits})
    content = digest([job.data.digest(), job.name, *(file_digest(split_file(folder, split)) for split in told)])
    return job.data.model_copy(update={"content": content})
