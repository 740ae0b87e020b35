"""Hidden tokens: masked language modelling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from typing_extensions import override

from ftlib.data.inputs import INPUT_IDS, Masking, from_metadata, token_columns
from ftlib.data.row_targets import NO_WORD
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.drawn_answers import drawn_log_probs, uniforms
from ftlib.kinds.draws import MEASURED, Draw
from ftlib.kinds.heads.base import Answers, Head, Request
from ftlib.kinds.hidden_tokens import hidden_tokens
from ftlib.kinds.outcomes import MaskedOutcomes
from ftlib.kinds.split import Lists, PreparedSplit, Rows
from ftlib.kinds.targets import Targets

_KEPT = 4096
"""Rows whose draw is remembered: it is asked for when rows are counted, read and taught."""


class MaskedHead(Head):
    """Which token each hidden one is: the head of masked language modelling, tied to the embedding where stock is."""

    auto_class: ClassVar[Any] = AutoModelForMaskedLM
    # Logits take tokens x vocabulary: 2,048 x 30,000 in fp32 are 250 MB.
    largest_batch: ClassVar[int] = 2_048

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> HiddenWords:
        masking = next(one.masking for one in token_columns(from_metadata(table.schema.metadata)) if one.masking)
        return HiddenWords(Lists(table[INPUT_IDS]), Lists(table["target"]), masking)

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return that of another token for every one that is hidden, each drawn alone."""
        logits, meant = hidden_tokens(model, batch)
        return drawn_log_probs(logits, uniforms(random, len(meant), logits.device)).sum()

    @override
    def answers(self, asked: Request) -> MaskedAnswers:
        return MaskedAnswers(asked.split)


class HiddenWords(Targets):
    """Which tokens of a row are hidden under a draw, what is read in their place, and what they are."""

    def __init__(self, tokens: Lists, words: Lists, masking: Masking, draw: Draw = MEASURED) -> None:
        self._tokens, self._words, self._masking, self._draw = tokens, words, masking, draw
        self._drawn: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @override
    def drawn(self, draw: Draw) -> HiddenWords:
        return self if draw == self._draw else HiddenWords(self._tokens, self._words, self._masking, draw)

    @override
    def read(self, rows: Rows) -> list[Int[np.ndarray, " tokens"]]:
        return [self._of(int(row))[0] for row in rows]

    @override
    def terms(self, rows: Rows) -> Int[np.ndarray, " rows"]:
        return np.array([len(self._of(int(row))[1]) for row in rows], np.int64)

    @override
    def tensor(self, rows: Rows, lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return rows x tokens: each hidden token as it is, `UNTAUGHT` elsewhere."""
        meant = np.full((len(rows), int(lengths.max(initial=0))), UNTAUGHT, np.int64)
        for row, ids in zip(rows, meant, strict=True):
            hidden = self._of(int(row))[1]
            ids[hidden] = self._tokens[row][hidden]
        return torch.from_numpy(meant)

    def _of(self, row: int) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " hidden"]]:
        """Return what is read of a row, and the places that are hidden in it."""
        if row not in self._drawn:
            if len(self._drawn) >= _KEPT:
                self._drawn.clear()
            self._drawn[row] = hide(self._tokens[row], self._words[row], self._masking, self._draw.of(row))
        return self._drawn[row]


def hide(
    tokens: Int[np.ndarray, " tokens"], words: Int[np.ndarray, " tokens"], masking: Masking, random: np.random.Generator
) -> tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " hidden"]]:
    """Hide words of a row; return its tokens as they are read then, and the places that are hidden, in order.

    Each word is hidden with the probability `masking.rate`, all its tokens together, and one at least.
    """
    numbers, word_of = np.unique(words, return_inverse=True)
    wanted = (random.random(len(numbers)) < masking.rate) & (numbers != NO_WORD)
    if not wanted.any():
        wanted[random.choice(np.flatnonzero(numbers != NO_WORD))] = True
    hidden = np.flatnonzero(wanted[word_of])
    how, others = random.random(len(hidden)), random.integers(0, masking.vocabulary, len(hidden))
    read = tokens.copy()
    read[hidden] = np.select([how < 0.8, how < 0.9], [np.full(len(hidden), masking.token), others], tokens[hidden])
    return read, hidden


class MaskedAnswers(Answers):
    """Collects the likelihood of every hidden token, and whether it is the most probable one."""

    def __init__(self, split: PreparedSplit) -> None:
        self._split = split
        self.nll = np.zeros(len(split), np.float64)
        self._right = np.zeros(len(split), np.int64)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        logits, meant = hidden_tokens(model, batch)
        of = np.repeat(np.arange(len(rows)), batch.supervised.cpu().numpy())
        nll = -logits.double().log_softmax(-1).gather(1, meant[:, None])[:, 0].cpu().numpy()
        right = (logits.argmax(-1) == meant).cpu().numpy()
        self.nll[rows] = np.bincount(of, nll, minlength=len(rows))
        self._right[rows] = np.bincount(of, right, minlength=len(rows)).astype(np.int64)

    @override
    def outcomes(self, common: Mapping[str, Any]) -> MaskedOutcomes:
        targets = self._split.terms(range(len(self._split)))
        return MaskedOutcomes(**common, nll=self.nll, targets=targets, right=self._right)
