"""Candidates on one split of one evaluation: per-example outcomes, and metrics computed from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.identity import places
from ftlib.data.prepared import split_file
from ftlib.errors import DataError
from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.measured import EvalReport, Measured, SliceFacts
from ftlib.evaluation.room import check_room
from ftlib.fingerprint import Job, digest
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.kinds.samples import Samples
from ftlib.merging.candidates import Candidate
from ftlib.training.compute import Compute
from ftlib.wording import counted, some
from ftlib.workspace import Workspace

OUTCOMES_VERSION = 4
"""Raised when the forward pass or the table changes; cached tables of another version are not read."""


class EvaluateJob(Job):
    """Which candidates, on which rows, measured how. Outcomes are cached per (weights, rows), not per job."""

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 4
    introduced: ClassVar[Mapping[str, object]] = {"asked": {}}

    name: str
    """The evaluation's name in the recipe."""
    evaluation: Evaluation
    asked: dict[str, str] = {}
    """The weights of the models that metrics ask, by the metric's name: a path says not what lies there."""
    candidates: tuple[Candidate, ...]
    data: PreparedDataset
    split: Split
    seed: int
    compute: Compute

    @property
    def fingerprint(self) -> str:
        """As for every job, and the candidates' names: a report is looked up by them, and a digest has none."""
        return digest([super().fingerprint, [candidate.name for candidate in self.candidates]])[:16]


def evaluate(job: EvaluateJob, work: Workspace) -> EvalReport:
    """Measure every candidate on every row of the split, with intervals and slices.

    Weights are mixed in memory. A table that was made before for the same weights and rows, by whatever job, is read.
    Raises DataError for an empty split, a label the model does not know, or rows prepared for another model;
    ModelError for weights that do not load or whose answers are not finite.
    """
    _check_rows(job)

    def build(folder: Path) -> EvalReport:
        del folder  # the tables lie under `outcomes/`, where other jobs find them
        tables = [read_outcomes(path) for path in _tables(job, work)]
        resampling = Resampling(job.evaluation.resamples, job.evaluation.confidence, job.seed)
        return EvalReport(
            measured=tuple(
                _measured(job, candidate, table, resampling)
                for candidate, table in zip(job.candidates, tables, strict=True)
            )
        )

    return work.once(job, EvalReport, build)


def outcomes_file(
    candidate: Candidate,
    data: PreparedDataset,
    split: Split,
    max_new_tokens: int,
    num_beams: int = 1,
    samples: Samples | None = None,
) -> Path:
    """Return where the outcomes of these weights on these rows are kept, relative to the work folder's root."""
    asked = [data.digest(), split, *([max_new_tokens] if max_new_tokens else [])]
    asked += [f"{num_beams} beams"] if num_beams > 1 else []
    asked += [samples.model_dump_json()] if samples else []
    # The end's own: its tokenizer spells the answers, whatever the weights are mixed of.
    key = digest([OUTCOMES_VERSION, candidate.digest(), candidate.end.tokenizer, list(candidate.end.labels), *asked])
    return Path("outcomes") / f"{key[:32]}.parquet"


def _outcomes_file(job: EvaluateJob, candidate: Candidate) -> Path:
    asked = job.evaluation
    return outcomes_file(candidate, job.data, job.split, asked.max_new_tokens, asked.num_beams, asked.samples)


def _check_rows(job: EvaluateJob) -> None:
    """Raise DataError for a split with nothing to measure, or rows of other tokens or labels than a candidate's."""
    facts = job.data.splits.get(job.split)
    if facts is None or not facts.rows:
        raise DataError(
            f"evaluation {job.name!r}: dataset {job.evaluation.dataset!r} has no {job.split} rows; "
            "give its split policy a larger share"
        )
    if not facts.supervised and any(metric.reads_own for metric in job.evaluation.metrics):
        raise DataError(
            f"evaluation {job.name!r}: {counted(facts.rows, f'{job.split} row')} with nothing to predict; "
            "texts of one token have no next one"
        )
    for candidate in job.candidates:
        rows = split_file(job.data.path, job.split)
        check_room(
            f"evaluations.{job.name}", job.evaluation.max_new_tokens, rows, partial(_reads, candidate.end.folder)
        )
        if candidate.end.tokenizer != job.data.tokenizer:
            raise DataError(
                f"evaluation {job.name!r}: dataset {job.evaluation.dataset!r} was prepared for another model than "
                f"{candidate.name!r}; preprocess it with that model's tokenizer or image processor"
            )
        by_label = zip(facts.labels, places(facts.labels, candidate.end.labels), strict=True)
        if unknown := sorted(label for label, index in by_label if index is None):
            raise DataError(
                f"evaluation {job.name!r}: {candidate.name!r} has no label {some([*map(repr, unknown)])}; "
                f"it has {', '.join(candidate.end.labels)}"
            )


def _reads(model: Path) -> int | None:
    from ftlib.models.limits import limits_of

    return limits_of(model).positions


def _tables(job: EvaluateJob, work: Workspace) -> list[Path]:
    """Return each candidate's table, making those that are not there; loads torch only if one is missing."""
    names = [_outcomes_file(job, candidate) for candidate in job.candidates]
    files = [work.shared(name) for name in names]
    missing = [name for name, file in zip(names, files, strict=True) if not file.exists()]
    if not missing:
        return files
    from ftlib.evaluation.inference import infer_here
    from ftlib.evaluation.predictor import PredictionPlan

    plan = PredictionPlan(
        name=job.name,
        candidates=job.candidates,
        files=tuple(map(str, files)),
        data=job.data,
        split=job.split,
        max_new_tokens=job.evaluation.max_new_tokens,
        num_beams=job.evaluation.num_beams,
        samples=job.evaluation.samples,
        compute=job.compute,
    )
    if job.compute.infers_on_ray:
        from ftlib.on_ray.evaluator import infer

        infer(plan, work)
    else:
        infer_here(plan)
    for name in missing:
        work.share(name)
    return files


def _measured(job: EvaluateJob, candidate: Candidate, table: Outcomes, resampling: Resampling) -> Measured:
    return Measured(
        candidate=candidate.name,
        weights=candidate.weights,
        alpha=candidate.alpha,
        evaluation=job.name,
        split=job.split,
        rows=len(table),
        outcomes=str(_outcomes_file(job, candidate)),
        metrics=estimates(table, job.evaluation.metrics, resampling),
        signatures={metric.name: signature for metric in job.evaluation.metrics if (signature := metric.signature())},
        slices=dict(_slices(job, table, resampling)),
    )


def _slices(job: EvaluateJob, table: Outcomes, resampling: Resampling) -> Iterator[tuple[str, SliceFacts]]:
    """Yield (`column=value`, facts) for every value, in order of column and value."""
    import numpy as np

    for column, values in sorted(table.slices.items()):
        for value in sorted(set(values)):
            part = table.take(np.array([i for i, v in enumerate(values) if v == value], np.int64))
            metrics = estimates(part, job.evaluation.metrics, resampling)
            yield f"{column}={value}", SliceFacts(rows=len(part), metrics=metrics)
