"""Two answers to one prompt, of which one is preferred: how likely a language model finds each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from typing_extensions import override

from ftlib.data.inputs import INPUT_IDS
from ftlib.kinds.answer_log_probs import answer_log_probs
from ftlib.kinds.batch import Batch
from ftlib.kinds.heads.base import Answers, Request
from ftlib.kinds.heads.tokens import TokenHead
from ftlib.kinds.outcomes import PreferenceOutcomes
from ftlib.kinds.split import Lists, PreparedSplit, Rows
from ftlib.kinds.targets import Targets

REFERENCE = "reference"
"""What the scores of a row's answers by a frozen model are called."""


class PreferenceHead(TokenHead):
    """Pairs: a row is two sequences of tokens, which lie one behind the other in the batch, chosen before rejected."""

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> Pairs:
        return Pairs(Lists(table[INPUT_IDS]), table["target"])

    @override
    def answered(self, batch: Batch) -> Batch:
        return replace(batch, terms=None)  # those of the loss, of which a row has one, and not its tokens

    @override
    def scores(self, model: nn.Module, batch: Batch) -> Float[Tensor, "rows answers"]:
        return answer_log_probs(model, batch).sums

    @override
    def numbers(self, labels: int) -> tuple[int, ...]:
        return (2,)

    @override
    def answers(self, asked: Request) -> PreferenceAnswers:
        return PreferenceAnswers(asked.split)


class Pairs(Targets):
    """The two sequences of each row, and which of their tokens are the answers."""

    def __init__(self, tokens: Lists, column: pa.ChunkedArray) -> None:
        self._tokens = tokens
        self.places = places_in(column, 4)
        """Of each row: first token of the chosen answer, the one behind its last, and the same of the other."""

    @override
    def sizes(self) -> Int[np.ndarray, " split"]:
        starts = self.places[:, 1]
        return 2 * np.maximum(starts, self.places[:, 3] - starts)

    @override
    def read(self, rows: Rows) -> list[Int[np.ndarray, " tokens"]]:
        return [sequence for row in rows for sequence in np.split(self._tokens[row], [self.places[row, 1]])]

    @override
    def tensor(self, rows: Rows, lengths: Int[np.ndarray, " rows"]) -> Bool[Tensor, "sequences width"]:
        """Return which tokens of each sequence are its answer's."""
        places = self.places[rows]
        spans = places - places[:, 1:2] * np.array([0, 0, 1, 1])
        return torch.from_numpy(marks(spans.reshape(-1, 2)))


def places_in(column: pa.ChunkedArray, count: int) -> Int[np.ndarray, "split places"]:
    """Return the places that every target of a split says, of which each has `count`."""
    chunks: list[Any] = column.chunks
    flat = [chunk.field("places").flatten().to_numpy() for chunk in chunks]
    return np.concatenate([np.zeros(0, np.int64), *flat]).reshape(-1, count)


def marks(bounds: Int[np.ndarray, "sequences 2"]) -> Bool[np.ndarray, "sequences width"]:
    """Return rows as wide as the last place, which are true from their first bound to before their second."""
    places = np.arange(int(bounds[:, 1].max(initial=0)))
    return (places >= bounds[:, :1]) & (places < bounds[:, 1:])


class PreferenceAnswers(Answers):
    """Collects how likely both answers of every row are, to the model and, where the rows say it, to a reference."""

    def __init__(self, split: PreparedSplit) -> None:
        count = len(split)
        self.nll = np.zeros(count, np.float64)
        self._log_probs, self._tokens = np.zeros((count, 2), np.float64), np.zeros((count, 2), np.int64)
        self._reference = np.zeros((count, 2), np.float64) if REFERENCE in split.scores else None

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        said = answer_log_probs(model, batch, measured=True)
        self._log_probs[rows], self._tokens[rows] = said.sums.cpu().numpy(), said.tokens.cpu().numpy()
        self.nll[rows] = -self._log_probs[rows, 0]
        if self._reference is not None:
            self._reference[rows] = batch.columns[REFERENCE].double().cpu().numpy()

    @override
    def outcomes(self, common: Mapping[str, Any]) -> PreferenceOutcomes:
        return PreferenceOutcomes(
            **common,
            nll=self.nll,
            targets=self._tokens[:, 0],
            rejected_nll=-self._log_probs[:, 1],
            rejected_targets=self._tokens[:, 1],
            reference=None if self._reference is None else self._reference,
        )
