"""One number per row: sequence classification with a single output, which is regression to transformers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from ftlib.kinds.batch import Batch
from ftlib.kinds.heads.base import Answers, Request
from ftlib.kinds.heads.sequence import SequenceHead, logits_of
from ftlib.kinds.outcomes import ScoreOutcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets


class ScoreHead(SequenceHead):
    """A number a row: one output, the score itself."""

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {"num_labels": 1, "problem_type": "regression"}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> ScoreTargets:
        return ScoreTargets(table["target"].to_numpy())

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return that of normal distributions around the numbers, of variance 1 as in `nll`, but for a constant."""
        scores = model(**batch.inputs).logits[:, 0].float()
        noise = torch.from_numpy(random.standard_normal(len(batch))).to(scores.device, torch.float32)
        return -0.5 * (scores - (scores.detach() + noise)).square().sum()

    @override
    def answers(self, asked: Request) -> ScoreAnswers:
        return ScoreAnswers(asked.split)


class ScoreTargets(Targets):
    """Each row's number."""

    def __init__(self, scores: Float[np.ndarray, " rows"]) -> None:
        self.scores = scores

    def tensor(self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return the numbers as float32."""
        return torch.from_numpy(self.scores[rows]).float()


class ScoreAnswers(Answers):
    """Collects numbers."""

    def __init__(self, split: PreparedSplit) -> None:
        assert isinstance(split.targets, ScoreTargets)
        self.nll = np.zeros(len(split), np.float64)
        self._gold = split.targets.scores
        self._predicted = np.zeros(len(split), np.float64)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        self._predicted[rows] = logits_of(model, batch)[:, 0].cpu().numpy()
        self.nll[rows] = 0.5 * ((self._predicted[rows] - self._gold[rows]) ** 2 + math.log(2 * math.pi))

    @override
    def outcomes(self, common: Mapping[str, Any]) -> ScoreOutcomes:
        ones = np.ones(len(self.nll), np.int64)
        return ScoreOutcomes(**common, nll=self.nll, targets=ones, gold=self._gold, predicted=self._predicted)
