"""Two texts of which one is better: sequence classification with a single output, a score without a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from typing_extensions import override

from ftlib.data.inputs import INPUT_IDS
from ftlib.kinds.batch import Batch
from ftlib.kinds.drawn_answers import uniforms
from ftlib.kinds.heads.base import Answers, Request
from ftlib.kinds.heads.sequence import SequenceHead, logits_of
from ftlib.kinds.outcomes import ComparedOutcomes
from ftlib.kinds.split import Lists, PreparedSplit, Rows
from ftlib.kinds.targets import Targets


class ComparedHead(SequenceHead):
    """A score for each of two texts: one output, of which only differences mean something."""

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {"num_labels": 1, "problem_type": "regression"}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> Comparisons:
        chunks: list[Any] = table["target"].chunks
        border = np.concatenate([np.zeros(0, np.int32), *(chunk.field("border").to_numpy() for chunk in chunks)])
        margin = np.concatenate([np.zeros(0), *(chunk.field("margin").to_numpy() for chunk in chunks)])
        return Comparisons(Lists(table[INPUT_IDS]), border, margin)

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return that of which of two texts is better, a yes or no with the probability that the scores give."""
        gap = score_gaps(model(**batch.inputs).logits.float())
        chosen = uniforms(random, len(batch), gap.device) < gap.detach().sigmoid()
        return logsigmoid(torch.where(chosen, gap, -gap)).sum()

    @override
    def answers(self, asked: Request) -> ComparedAnswers:
        return ComparedAnswers(asked.split)


def pair_scores(logits: Float[Tensor, "texts 1"]) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return the scores of the better and of the worse text of each row, as batches lay them out."""
    pairs = logits[:, 0].unflatten(0, (-1, 2))
    return pairs[:, 0], pairs[:, 1]


def score_gaps(logits: Float[Tensor, "texts 1"]) -> Float[Tensor, " rows"]:
    """Return by how much the better text of each row scores above the other."""
    chosen, rejected = pair_scores(logits)
    return chosen - rejected


class Comparisons(Targets):
    """The two texts of each row, which the model reads as rows of their own, the better one first; and its margin."""

    def __init__(self, tokens: Lists, borders: Int[np.ndarray, " rows"], margins: Float[np.ndarray, " rows"]) -> None:
        self._tokens, self._borders, self.margins = tokens, borders, margins

    @override
    def read(self, rows: Rows) -> list[Int[np.ndarray, " tokens"]]:
        return [text for row in rows for text in np.split(self._tokens[row], [int(self._borders[row])])]

    def tensor(self, rows: Rows, lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return the rows' margins as float32."""
        return torch.from_numpy(self.margins[rows]).float()


class ComparedAnswers(Answers):
    """Collects scores."""

    def __init__(self, split: PreparedSplit) -> None:
        assert isinstance(split.targets, Comparisons)
        self.nll = np.zeros(len(split), np.float64)
        self._margin = split.targets.margins
        self._chosen, self._rejected = np.zeros(len(split), np.float64), np.zeros(len(split), np.float64)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        chosen, rejected = pair_scores(logits_of(model, batch))
        self._chosen[rows], self._rejected[rows] = chosen.cpu().numpy(), rejected.cpu().numpy()
        self.nll[rows] = -logsigmoid(chosen - rejected).cpu().numpy()

    @override
    def outcomes(self, common: Mapping[str, Any]) -> ComparedOutcomes:
        return ComparedOutcomes(
            **common,
            nll=self.nll,
            targets=np.ones(len(self.nll), np.int64),
            chosen=self._chosen,
            rejected=self._rejected,
            margin=self._margin,
        )
