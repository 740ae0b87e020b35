"""Candidates on one split, to tables of outcomes: the models in memory, and whose turn it is to ask them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ftlib.config import Config, Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.evaluation.forward_pass import EVERYTHING, Share, predict_split, resources
from ftlib.kinds.loading import load, load_tokenizer
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.adapter_sweep import AdapterSweep, walks_by_scaling
from ftlib.merging.candidate_weights import mix_into
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.progress import emit
from ftlib.training.compute import Compute
from ftlib.workspace import exclusive, write_durably


class PredictionPlan(Config):
    """Which models to ask about which rows, and where their tables go. Plain data, so it crosses to a Ray worker."""

    name: str
    """The evaluation's, for signs of life."""
    candidates: tuple[Candidate, ...]
    files: tuple[str, ...]
    """Each candidate's table; one that is there is not made again."""
    data: PreparedDataset
    split: Split
    max_new_tokens: int
    """What a model writes at most after a prompt; 0 where it writes nothing."""
    compute: Compute

    def rows(self, candidate: int) -> PreparedSplit:
        """Return the rows, with their targets as the candidate's head lays them out."""
        return open_split(split_file(self.data.path, self.split), self.candidates[candidate].end.labels)

    def report(self, candidate: int, done: int) -> None:
        """Say how many rows the candidate was asked about."""
        rows = self.data.splits[self.split].rows
        emit(f"evaluate {self.name}", rows * candidate + done, rows * len(self.candidates), "rows")

    def make(self, table: Callable[[int], Outcomes]) -> None:
        """Make and write every table that is not there. Two runs that want the same one do not both make it."""
        for candidate, file in enumerate(map(Path, self.files)):
            with exclusive(file.with_suffix(".lock"), wait=True):
                if not file.exists():
                    write_durably(file, table(candidate).by_example().to_parquet())


def predict_here(plan: PredictionPlan) -> None:
    """Make the tables in this process. Raises ModelError for weights that do not load, or answers not finite."""
    with resources(plan.compute) as device:
        predictor = Predictor(plan, device)
        plan.make(lambda candidate: predictor.table(candidate, lambda done: plan.report(candidate, done)))


def threads_each(compute: Compute) -> int:
    """Return the CPU threads of one of several workers."""
    return compute.threads or max(1, (os.cpu_count() or 1) // compute.evaluation_workers)


class Predictor:
    """The last checkpoints as a model in memory: a sweep loads once, and mixes in place or scales the adapter."""

    def __init__(self, plan: PredictionPlan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._key: tuple[object, ...] | None = None
        self._model: nn.Module | None = None
        self._adapter: AdapterSweep | None = None

    def table(
        self, candidate: int, on_rows: Callable[[int], None] = lambda _: None, share: Share = EVERYTHING
    ) -> Outcomes:
        """Return what a candidate says about this share of the rows."""
        end = self._plan.candidates[candidate].end
        model = self._at(self._plan.candidates[candidate])
        return predict_split(
            model,
            self._plan.rows(candidate),
            end.labels,
            lambda: load_tokenizer(end.folder),
            on_rows,
            self._plan.max_new_tokens,
            share,
        )

    def _at(self, candidate: Candidate) -> nn.Module:
        scales = walks_by_scaling(candidate)
        alone = candidate.end.form == "adapter" and not scales
        key = (
            scales,
            alone and candidate.digest(),
            *(part.digest() for part in (candidate.start, candidate.end, *candidate.siblings)),
        )
        if self._model is None or self._key != key:
            self._model = self._adapter = None  # never two models in memory
            self._model, self._adapter = self._load(candidate, scales=scales)
            self._key = key
        if self._adapter is not None:
            return self._adapter.at(candidate.alpha or 0.0)
        if candidate.mixes and not alone:
            mix_into(self._model, candidate)
        return self._model

    def _load(self, candidate: Candidate, *, scales: bool) -> tuple[nn.Module, AdapterSweep | None]:
        kind = self._plan.data.kind
        if scales:
            adapter = AdapterSweep(candidate, kind)
            return adapter.model.to(self._device), adapter
        if candidate.end.form == "adapter":
            return model_of(candidate, kind).to(self._device), None
        return load(candidate.start, kind).to(self._device), None
