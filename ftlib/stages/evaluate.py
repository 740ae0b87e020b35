"""Candidates on one split of one evaluation: per-example outcomes, and metrics computed from them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftlib.artifacts import Candidate, EvalReport, Measured, PreparedDataset, SliceFacts
from ftlib.bootstrap import Resampling, estimates
from ftlib.config import Split
from ftlib.errors import DataError
from ftlib.fingerprint import Job, digest
from ftlib.outcomes import Outcomes, read_outcomes
from ftlib.prepared import split_file
from ftlib.progress import emit
from ftlib.recipe import Compute, Evaluation
from ftlib.workspace import Workspace, exclusive, write_durably

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ftlib.training.adapter_sweep import AdapterSweep

OUTCOMES_VERSION = 3
"""Raised when the forward pass or the table changes; cached tables of another version are not read."""


class EvaluateJob(Job):
    """Which candidates, on which rows, measured how. Outcomes are cached per (weights, rows), not per job."""

    stage: ClassVar[str] = "evaluate"
    version: ClassVar[int] = 3

    name: str
    """The evaluation's name in the recipe."""
    evaluation: Evaluation
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
    Raises DataError for an empty split, a label the model does not know, or rows tokenised for another model;
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


def outcomes_file(candidate: Candidate, data: PreparedDataset, split: Split, max_new_tokens: int) -> Path:
    """Return where the outcomes of these weights on these rows are kept, relative to the work folder's root."""
    asked = [data.digest(), split, *([max_new_tokens] if max_new_tokens else [])]
    key = digest([OUTCOMES_VERSION, candidate.digest(), list(candidate.end.labels), *asked])
    return Path("outcomes") / f"{key[:32]}.parquet"


def _outcomes_file(job: EvaluateJob, candidate: Candidate) -> Path:
    return outcomes_file(candidate, job.data, job.split, job.evaluation.max_new_tokens)


def _check_rows(job: EvaluateJob) -> None:
    facts = job.data.splits.get(job.split)
    if facts is None or not facts.rows:
        raise DataError(
            f"evaluation {job.name!r}: dataset {job.evaluation.dataset!r} has no {job.split} rows; "
            "give its split policy a larger share"
        )
    if not facts.supervised:
        raise DataError(
            f"evaluation {job.name!r}: the {facts.rows} {job.split} rows have nothing to predict; "
            "texts of one token have no next one"
        )
    for candidate in job.candidates:
        if candidate.end.tokenizer != job.data.tokenizer:
            raise DataError(
                f"evaluation {job.name!r}: dataset {job.evaluation.dataset!r} was tokenised for another model than "
                f"{candidate.name!r}; preprocess it with that model's tokenizer"
            )
        if unknown := sorted(set(facts.labels) - set(candidate.end.labels)):
            raise DataError(
                f"evaluation {job.name!r}: {candidate.name!r} has no label {', '.join(map(repr, unknown[:5]))}; "
                f"it has {', '.join(candidate.end.labels)}"
            )


def _tables(job: EvaluateJob, work: Workspace) -> Iterator[Path]:
    """Yield each candidate's table, making those that are not there; loads torch only if one is missing."""
    files = [work.root / _outcomes_file(job, candidate) for candidate in job.candidates]
    if all(file.exists() for file in files):
        yield from files
        return
    from ftlib.training.inference import resources

    with resources(job.compute) as device:
        loaded = _Loaded(device)
        for i, (candidate, file) in enumerate(zip(job.candidates, files, strict=True)):
            with exclusive(file.with_suffix(".lock"), wait=True):
                if not file.exists():
                    write_durably(file, _predict(job, i, loaded.at(candidate, job.data)).to_parquet())
            yield file


class _Loaded:
    """The last checkpoints as a model in memory: a sweep loads once, and mixes in place or scales the adapter."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._key: tuple[object, ...] | None = None
        self._model: nn.Module | None = None
        self._adapter: AdapterSweep | None = None

    def at(self, candidate: Candidate, data: PreparedDataset) -> nn.Module:
        from ftlib.training.adapter_sweep import walks_by_scaling
        from ftlib.training.merge import mix_into

        scales = walks_by_scaling(candidate)
        key = (scales, *(part.weights for part in (candidate.start, candidate.end, *candidate.siblings)))
        if self._model is None or self._key != key:
            self._model = self._adapter = None  # never two models in memory
            self._model, self._adapter = self._load(candidate, data, scales=scales)
            self._key = key
        if self._adapter is not None:
            return self._adapter.at(candidate.alpha or 0.0)
        if candidate.mixes:
            mix_into(self._model, candidate)
        return self._model

    def _load(
        self, candidate: Candidate, data: PreparedDataset, *, scales: bool
    ) -> tuple[nn.Module, AdapterSweep | None]:
        from ftlib.training.adapter_sweep import AdapterSweep
        from ftlib.training.model import load_model

        if scales:
            adapter = AdapterSweep(candidate, data.kind)
            return adapter.model.to(self._device), adapter
        return load_model(candidate.start.path / "model", data.kind).to(self._device), None


def _predict(job: EvaluateJob, index: int, model: nn.Module) -> Outcomes:
    from ftlib.training.batches import PreparedSplit
    from ftlib.training.inference import predict_split
    from ftlib.training.model import load_tokenizer

    end = job.candidates[index].end
    split = PreparedSplit(split_file(job.data.path, job.split), end.labels)
    total = len(split) * len(job.candidates)

    def report(done: int) -> None:
        emit(f"evaluate {job.name}", len(split) * index + done, total, "rows")

    return predict_split(
        model,
        split,
        end.labels,
        lambda: load_tokenizer(end.path / "model"),
        report,
        job.evaluation.max_new_tokens,
    )


def _measured(job: EvaluateJob, candidate: Candidate, table: Outcomes, resampling: Resampling) -> Measured:
    return Measured(
        candidate=candidate.name,
        weights=candidate.digest(),
        alpha=candidate.alpha,
        evaluation=job.name,
        split=job.split,
        rows=len(table),
        outcomes=str(_outcomes_file(job, candidate)),
        metrics=estimates(table, job.evaluation.metrics, resampling),
        slices=dict(_slices(job, table, resampling)),
    )


def _slices(job: EvaluateJob, table: Outcomes, resampling: Resampling) -> Iterator[tuple[str, SliceFacts]]:
    """Yield (`column=value`, facts) for every value, in order of column and value."""
    import numpy as np

    for column, values in sorted(table.slices.items()):
        for value in sorted(set(values)):
            part = table.take(np.array([i for i, v in enumerate(values) if v == value], np.int64))
            if part.targets.sum():
                metrics = estimates(part, job.evaluation.metrics, resampling)
                yield f"{column}={value}", SliceFacts(rows=len(part), metrics=metrics)
