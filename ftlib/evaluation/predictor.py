"""Candidates on one split, to tables of outcomes: the models in memory, and whose turn it is to ask them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from typing_extensions import override

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.evaluation.forward_pass import EVERYTHING, Share, predict_split
from ftlib.evaluation.inference import InferencePlan, Models
from ftlib.fingerprint import digest
from ftlib.kinds.loading import load, load_tokenizer
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import Outcomes, joined
from ftlib.kinds.outcomes_file import parse_outcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.adapter_sweep import AdapterSweep, walks_by_scaling
from ftlib.merging.candidate_weights import mix_into
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.workspace import exclusive, write_durably


class PredictionPlan(InferencePlan[Outcomes]):
    """Which candidates to ask about which rows, and where their tables go."""

    kind: Literal["predictions"] = "predictions"
    candidates: tuple[Candidate, ...]
    files: tuple[str, ...]
    """Each candidate's table; one that is there is not made again."""
    data: PreparedDataset
    split: Split
    max_new_tokens: int
    """What a model writes at most after a prompt; 0 where it writes nothing."""

    @property
    @override
    def what(self) -> str:
        return f"evaluate {self.name}"

    @property
    @override
    def job_file(self) -> Path:
        return Path(self.files[0]).with_name(f"evaluate-{digest(list(self.files))[:16]}.json")

    @override
    def models(self, device: torch.device) -> Predictor:
        return Predictor(self, device)

    @override
    def rows(self, item: int) -> PreparedSplit:
        """Return the rows, with their targets as the candidate's head lays them out."""
        return open_split(split_file(self.data.path, self.split), self.candidates[item].end.labels)

    @override
    def done_before(self, item: int) -> tuple[int, int]:
        rows = self.data.splits[self.split].rows
        return rows * item, rows * len(self.candidates)

    @override
    def make(self, answer: Callable[[int], Outcomes]) -> None:
        """Make and write every table that is not there. Two runs that want the same one do not both make it."""
        for candidate, file in enumerate(map(Path, self.files)):
            with exclusive(file.with_suffix(".lock"), wait=True):
                if not file.exists():
                    write_durably(file, answer(candidate).by_example().to_parquet())

    @override
    def to_bytes(self, answer: Outcomes) -> bytes:
        return answer.to_parquet()

    @override
    def joined(self, parts: Sequence[bytes], order: Int[np.ndarray, " rows"]) -> Outcomes:
        return joined([parse_outcomes(part) for part in parts]).take(order)


class Predictor(Models[Outcomes]):
    """The last checkpoints as a model in memory: a sweep loads once, and mixes in place or scales the adapter."""

    def __init__(self, plan: PredictionPlan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._key: tuple[object, ...] | None = None
        self._model: nn.Module | None = None
        self._adapter: AdapterSweep | None = None

    @override
    def answer(self, item: int, on_rows: Callable[[int], None] = lambda _: None, share: Share = EVERYTHING) -> Outcomes:
        end = self._plan.candidates[item].end
        model = self._at(self._plan.candidates[item])
        return predict_split(
            model,
            self._plan.rows(item),
            end.labels,
            lambda: load_tokenizer(end.folder),
            on_rows,
            self._plan.max_new_tokens,
            share,
        )

    def _at(self, candidate: Candidate) -> nn.Module:
        """Return the model at a candidate's point; the one in memory serves again for the same checkpoints."""
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
