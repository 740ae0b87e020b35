"""Answers that somebody judged: how likely a language model finds each, and those to other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from ftlib.data.inputs import INPUT_IDS
from ftlib.kinds.answer_log_probs import answer_log_probs, each_other
from ftlib.kinds.batch import Batch
from ftlib.kinds.heads.base import Answers, Request
from ftlib.kinds.heads.preferences import REFERENCE, marks, places_in
from ftlib.kinds.heads.tokens import TokenHead
from ftlib.kinds.outcomes import JudgedOutcomes
from ftlib.kinds.split import Lists, PreparedSplit, Rows
from ftlib.kinds.targets import Targets

_NEAR = 64
"""Rows of about its length among which a row's other answer is looked for."""


class JudgedHead(TokenHead):
    """Judged answers: a row is its own sequence and, behind it in the batch, its prompt with another prompt's answer.

    By the latter KTO estimates how far the model is from its reference. Which answer that is depends on the split
    alone: so the reference can be asked about it once, before training, and batches may be drawn and cut as they like.
    """

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> Judgements:
        return Judgements(Lists(table[INPUT_IDS]), table["target"])

    @override
    def answered(self, batch: Batch) -> Batch:
        return replace(each_other(batch, 0), terms=None)

    @override
    def scores(self, model: nn.Module, batch: Batch) -> Float[Tensor, "rows answers"]:
        """Return log p of each row's own answer, and of the other one to its prompt."""
        return answer_log_probs(model, batch).sums

    @override
    def numbers(self, labels: int) -> tuple[int, ...]:
        return (2,)

    @override
    def answers(self, asked: Request) -> JudgedAnswers:
        return JudgedAnswers(asked.split)


class Judgements(Targets):
    """The two sequences of each row, which of their tokens are the answers, and whether its own is wanted."""

    def __init__(self, tokens: Lists, column: pa.ChunkedArray) -> None:
        self._tokens = tokens
        self._firsts = places_in(column, 2)[:, 0]
        chunks: list[Any] = column.chunks
        self.wanted = np.array([one for chunk in chunks for one in chunk.field("wanted").to_pylist()], bool)

    @override
    def sizes(self) -> Int[np.ndarray, " split"]:
        return 2 * np.maximum(self._tokens.lengths, self._other_lengths)

    @override
    def read(self, rows: Rows) -> list[Int[np.ndarray, " tokens"]]:
        return [sequence for row in rows for sequence in (self._tokens[row], self._mismatched(int(row)))]

    @override
    def tensor(self, rows: Rows, lengths: Int[np.ndarray, " rows"]) -> Int[Tensor, "sequences width"]:
        """Return 1 on the tokens of answers to prompts of wanted rows, -1 of others, as int8, and 0 elsewhere."""
        ends = np.stack([self._tokens.lengths[rows], self._other_lengths[rows]], axis=1).reshape(-1)
        signs = np.repeat(np.where(self.wanted[rows], 1, -1), 2).astype(np.int8)
        spans = np.stack([np.repeat(self._firsts[rows], 2), ends], axis=1)
        return torch.from_numpy(marks(spans) * signs[:, None])

    def _mismatched(self, row: int) -> Int[np.ndarray, " tokens"]:
        """Return a row's prompt with another's answer, no longer than the split's longest row."""
        other = self.others[row]
        answer = self._tokens[other][self._firsts[other] :]
        return np.concatenate([self._tokens[row][: self._firsts[row]], answer])[: self._other_lengths[row]]

    @cached_property
    def _other_lengths(self) -> Int[np.ndarray, " split"]:
        lengths = self._tokens.lengths
        whole = self._firsts + (lengths - self._firsts)[self.others]
        return np.minimum(whole, lengths.max(initial=0))

    @cached_property
    def others(self) -> Int[np.ndarray, " split"]:
        """The row whose answer each row's prompt is given: of those of its length the next that has another prompt.

        Every answer is given once, or nearly so. Where no other prompt is near, it is the next row's.
        """
        order: list[int] = np.argsort(self._tokens.lengths, kind="stable").tolist()
        others = np.zeros(len(order), np.int64)
        for place, row in enumerate(order):
            near = [order[(place + step) % len(order)] for step in range(1, min(_NEAR, len(order)) + 1)]
            prompt = self._prompt(row)
            others[row] = next((one for one in near if self._prompt(one) != prompt), near[0])
        return others

    def _prompt(self, row: int) -> bytes:
        return self._tokens[row][: self._firsts[row]].tobytes()


class JudgedAnswers(Answers):
    """Collects how likely every row's own answer is, to the model and, where the rows say it, to a reference."""

    def __init__(self, split: PreparedSplit) -> None:
        assert isinstance(split.targets, Judgements)
        self.nll = np.zeros(len(split), np.float64)
        self._wanted, self._tokens = split.targets.wanted, np.zeros(len(split), np.int64)
        self._reference = np.zeros(len(split), np.float64) if REFERENCE in split.scores else None

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        said = answer_log_probs(model, JudgedHead().answered(batch), measured=True)
        self.nll[rows], self._tokens[rows] = -said.sums[:, 0].cpu().numpy(), said.tokens[:, 0].cpu().numpy()
        if self._reference is not None:
            self._reference[rows] = batch.columns[REFERENCE][:, 0].double().cpu().numpy()

    @override
    def outcomes(self, common: Mapping[str, Any]) -> JudgedOutcomes:
        return JudgedOutcomes(
            **common, nll=self.nll, targets=self._tokens, wanted=self._wanted, reference=self._reference
        )
