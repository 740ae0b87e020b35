"""Candidates to how far each one's answers moved from the start's, on the selection split of one evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftlib.config import SELECTION
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import DataError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.kl_to_start import Asked, kl
from ftlib.evaluation.measured import KL_TO_START, EvalReport, KLToStart, Moved
from ftlib.fingerprint import Job
from ftlib.merging.candidates import Candidates
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class DivergeJob(Job):
    """The candidates, the first of which is the start, and the rows that they answered."""

    stage: ClassVar[str] = "diverge"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"compute"})

    name: str
    """The evaluation's name in the recipe."""
    evaluation: Evaluation
    candidates: Candidates
    reports: tuple[EvalReport, ...]
    """What was measured of them: where a classifier's answers are."""
    data: PreparedDataset
    seed: int
    compute: Compute


def diverge(job: DivergeJob, work: Workspace) -> KLToStart:
    """Return KL(start || candidate) of every candidate, with its interval and its upper bound.

    Raises DataError for answers that have no such distance, StorageError if a table of outcomes is gone, ModelError for
    weights that do not load or a distance that is not finite.
    """

    def build(folder: Path) -> KLToStart:
        del folder  # the record is all there is; a language model's rows lie under `divergences/`
        resampling = Resampling(job.evaluation.resamples, job.evaluation.confidence, job.seed)
        asked = Asked(job.name, job.data, SELECTION, resampling, job.compute)
        members = job.candidates.members
        cells = {c.candidate: c for r in job.reports for c in r.measured if c.evaluation == job.name}
        moved: list[Moved] = []
        for member in members:
            found = kl(asked, work, members[0].start, member, cells[members[0].name], cells[member.name])
            if found is None:
                raise DataError(f"{job.name}/{KL_TO_START}: answers to {job.data.kind!r} rows have no divergence")
            estimate, drawn = found
            moved.append(Moved(candidate=member.name, kl=estimate, at_most=_upper(drawn, job.evaluation.confidence)))
        return KLToStart(evaluation=job.name, moved=tuple(moved))

    return work.once(job, KLToStart, build)


def _upper(drawn: Float[np.ndarray, " resamples"], confidence: float) -> float:
    import numpy as np

    return float(np.quantile(drawn, confidence))
