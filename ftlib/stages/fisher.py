"""A checkpoint and datasets to the Fisher information there: which weights their rows need."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import RecipeError
from ftlib.fingerprint import Job, file_digest
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint, model_in
from ftlib.training.checkpoints.run_place import RunPlace, attempt_of
from ftlib.training.compute import Compute
from ftlib.training.fisher.record import FILE, Fisher, FisherPlan
from ftlib.training.plan import Part
from ftlib.training.resources import in_this_process
from ftlib.workspace import Workspace


class FisherJob(Job):
    """Where to measure, and on which rows."""

    stage: ClassVar[str] = "fisher"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"names"})

    start: Checkpoint | Candidate
    data: tuple[PreparedDataset, ...]
    """Their training rows."""
    names: tuple[str, ...]
    """What the recipe calls them."""
    rows: int
    """Of each dataset, at most."""
    seed: int
    compute: Compute


def fisher(job: FisherJob, work: Workspace) -> Fisher:
    """Return the Fisher information of the checkpoint on these rows.

    Raises RecipeError for a head that is still random, or a kind of rows whose model gives no distribution; DataError
    for a dataset without training rows; ModelError where a gradient is not finite.
    """
    end = job.start.end if isinstance(job.start, Candidate) else job.start
    if end.fresh_head:
        raise RecipeError(
            f"fisher: the head of {end.phase!r} is still random, so nothing is known that could be kept; put a "
            "phase before it that trains the head, or use l2_sp or spd"
        )
    attempts: list[RunPlace] = []
    made = work.once(job, Fisher, lambda folder: _build(job, folder, work, attempts))
    for attempt in attempts[-1:]:
        attempt.end()
    return made


def _build(job: FisherJob, folder: Path, place: Workspace, attempts: list[RunPlace]) -> Fisher:
    """Run the plan here or on Ray, and say in a record what the workers left."""
    start = job.start if isinstance(job.start, Checkpoint) else _as_checkpoint(job.start, folder / "mixed")
    plan = FisherPlan(
        fingerprint=job.fingerprint,
        start=start,
        parts=tuple(Part(name=name, folder=data.uri) for name, data in zip(job.names, job.data, strict=True)),
        rows=job.rows,
        run=attempt_of(place, job.fingerprint, folder),
        kms_key=place.place.kms_key,
        kind=job.data[0].kind,
        labels=start.labels,
        seed=job.seed,
        compute=job.compute if job.compute.most_workers else in_this_process(job.compute),
    )
    attempts.append(attempt := plan.place)
    from ftlib.training.fisher.measuring import work
    from ftlib.training.worker import RESULT, outcome

    if job.compute.most_workers:
        from ftlib.on_ray.trainer import measure_fisher

        measure_fisher(place.carried(plan))
    else:
        work(plan)
    facts = outcome(plan, folder)
    if attempt.is_shared:  # it would be part of the output; in a bucket nothing goes before the record
        attempt.discard(RESULT)
        attempt.clear("ranks", "ray")
    shutil.rmtree(folder / "mixed", ignore_errors=True)
    return Fisher(
        content=file_digest(folder / FILE),
        weights=start.weights,
        datasets=job.names,
        rows=int(facts["rows"]),
        trace=float(facts["trace"]),
    )


def _as_checkpoint(candidate: Candidate, scratch: Path) -> Checkpoint:
    """Return a candidate as a checkpoint: what it copies, or a mix that is written for it."""
    source = 0 if candidate.merge is None else candidate.merge.whole_copy()
    if source is not None:
        return candidate.parts[source]
    from ftlib.merging.candidate_weights import write_candidate

    scratch.mkdir()
    merged = write_candidate(candidate, model_in(scratch))
    return candidate.end.model_copy(update={"uri": str(scratch), "weights": merged.weights})
