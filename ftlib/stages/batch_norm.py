"""Candidates to the same with BatchNorm statistics of their own, measured on training rows."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ftlib.data.datasets import PreparedDataset
from ftlib.fingerprint import Job, file_digest
from ftlib.merging.batch_norm import Statistics, moved_layers
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace


class BatchNormJob(Job):
    """Which candidates, and the rows that their statistics are measured on."""

    stage: ClassVar[str] = "batch_norm"
    version: ClassVar[int] = 1

    candidates: tuple[Candidate, ...]
    data: tuple[PreparedDataset, ...]
    """What the last phase trains on."""
    shares: tuple[float, ...]
    """How much of each it sees; they sum to 1."""
    rows: int
    seed: int
    """Of the order whose first rows are taken."""
    compute: Compute


def batch_norm(job: BatchNormJob, work: Workspace) -> Candidates:
    """Return the candidates, each that mixes moved running statistics with its own; the others as they are.

    A copy of one checkpoint keeps its bytes. So does a layer whose statistics are the same in all that is mixed: it was
    frozen, and what the weights were trained against is kept. Raises what `measure_here` raises.
    """

    def build(folder: Path) -> Candidates:
        layers = {i: layers_of for i, member in enumerate(job.candidates) if (layers_of := _to_measure(member))}
        if layers:
            _measure(job, folder, layers, work)
        return Candidates(
            members=tuple(
                member.model_copy(update={"statistics": _statistics(job, folder, i, layers)})
                for i, member in enumerate(job.candidates)
            )
        )

    made = work.once(job, Candidates, build, resumable=True)
    # A record keeps no folders: checkpoints are taken from the job, and statistics lie where the record was found.
    members = [
        asked.model_copy(update={"statistics": kept.statistics and _at(kept.statistics, made.uri_of(_file(Path(), i)))})
        for i, (asked, kept) in enumerate(zip(job.candidates, made.members, strict=True))
    ]
    return made.model_copy(update={"members": tuple(members)})


def _to_measure(candidate: Candidate) -> tuple[str, ...]:
    copies = candidate.merge is None or candidate.merge.whole_copy() is not None
    if copies or candidate.end.form == "adapter":
        return ()
    return moved_layers([part.weights_folder for part in candidate.parts])


def _measure(job: BatchNormJob, folder: Path, layers: dict[int, tuple[str, ...]], work: Workspace) -> None:
    from ftlib.evaluation.batch_norm import StatisticsPlan, measure_here

    plan = StatisticsPlan(
        candidates=tuple(job.candidates[i] for i in layers),
        files=tuple(str(_file(folder, i)) for i in layers),
        data=job.data,
        shares=job.shares,
        rows=job.rows,
        seed=job.seed,
        compute=job.compute,
    )
    if job.compute.infers_on_ray:  # where the candidates are evaluated, there is the GPU
        from ftlib.on_ray.statistics import measure

        measure(plan, work)
    else:
        measure_here(plan)


def _statistics(job: BatchNormJob, folder: Path, i: int, layers: dict[int, tuple[str, ...]]) -> Statistics | None:
    if i not in layers:
        return None
    parts = zip(job.data, job.shares, strict=True)
    rows = sum(min(round(job.rows * share), data.splits["train"].rows) for data, share in parts)
    return Statistics(sha256=file_digest(_file(folder, i)), layers=len(layers[i]), rows=rows)


def _at(statistics: Statistics, uri: str) -> Statistics:
    return statistics.model_copy(update={"uri": uri})


def _file(folder: Path, i: int) -> Path:
    return folder / f"{i:03}.safetensors"
