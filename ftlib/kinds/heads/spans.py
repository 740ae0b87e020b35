"""Where in a text the answer begins and ends: extractive question answering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForQuestionAnswering
from typing_extensions import override

from ftlib.data.inputs import ATTENTION_MASK
from ftlib.data.row_targets import Span
from ftlib.kinds.batch import Batch
from ftlib.kinds.drawn_answers import drawn_log_probs, uniforms
from ftlib.kinds.heads.base import Answers, Head, Request
from ftlib.kinds.outcomes import SpanOutcomes
from ftlib.kinds.span_nll import span_nll
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets

LONGEST_ANSWER = 30
"""Tokens of an answer at most, as in SQuAD's reference implementations."""


class SpanHead(Head):
    """Questions to a text: where in it the answer begins and ends."""

    auto_class: ClassVar[Any] = AutoModelForQuestionAnswering
    largest_batch: ClassVar[int] = 32_768

    def config(self, labels: Sequence[str]) -> dict[str, object]:
        """Return two outputs per token: some models make as many as the config they come with has labels."""
        return {"num_labels": 2}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> SpanTargets:
        return SpanTargets(table["target"])

    @override
    def logits(self, output: Any) -> Tensor:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return that of a first and a last token, which the model says independently of each other."""
        padding = batch.inputs[ATTENTION_MASK] == 0
        ends = self.logits(model(**batch.inputs)).float().masked_fill(padding[:, :, None], float("-inf"))
        logits = ends.transpose(1, 2).flatten(0, 1)
        return drawn_log_probs(logits, uniforms(random, len(logits), logits.device)).sum()

    @override
    def answers(self, asked: Request) -> SpanAnswers:
        return SpanAnswers(asked.split)


class SpanTargets(Targets):
    """Each window's span, read from the file when it is asked for."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def of(self, row: int) -> Span:
        """Return a window's span."""
        return cast(Span, self._column[row].as_py())

    def tensor(self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return rows x 2: the places of the answer's first and last token."""
        spans = [self.of(int(row)) for row in rows]
        return torch.tensor([[span["start"], span["end"]] for span in spans])

    @override
    def segments(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> list[list[int]] | None:
        segments = [self.of(int(row))["segments"] for row in rows]
        return segments if any(segments) else None


class SpanAnswers(Answers):
    """Collects every window's best span."""

    def __init__(self, split: PreparedSplit) -> None:
        assert isinstance(split.targets, SpanTargets)
        self.nll = np.zeros(len(split), np.float64)
        self._split, self._targets = split, split.targets
        self._scores = np.full(len(split), -np.inf)
        self._null_scores = np.zeros(len(split)) if len(split) and self._targets.of(0)["optional"] else None
        self._texts = [""] * len(split)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        output: Any = model(**batch.inputs)
        self.nll[rows] = span_nll(output, batch).double().cpu().numpy()
        if self._null_scores is not None:
            self._null_scores[rows] = null_scores(output.start_logits, output.end_logits).cpu().numpy()
        for i, row in enumerate(rows):
            spelt = self._targets.of(int(row))["spelt"]
            self._scores[row], self._texts[row] = best_span(output.start_logits[i], output.end_logits[i], spelt)

    @override
    def outcomes(self, common: Mapping[str, Any]) -> SpanOutcomes:
        return SpanOutcomes(
            **common,
            nll=self.nll,
            targets=self._split.supervised,
            answers=tuple(tuple(self._targets.of(row)["answers"]) for row in range(len(self.nll))),
            predicted=tuple(self._texts),
            scores=self._scores,
            null_scores=self._null_scores,
        )


def null_scores(start: Float[Tensor, "*rows width"], end: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows"]:
    """Return how much speaks for there being no answer: the logits of the first token, which is no text's."""
    return start[..., 0].double() + end[..., 0].double()


def best_span(
    start: Float[Tensor, " width"], end: Float[Tensor, " width"], spelt: Sequence[str | None]
) -> tuple[float, str]:
    """Return the largest sum of a start's and an end's logit over all spans of the text that is searched, and its text.

    Spans have at most `LONGEST_ANSWER` tokens. Both tensors may be padded.
    """
    inside = torch.tensor([token for token, text in enumerate(spelt) if text is not None], device=start.device)
    if not len(inside):
        return -np.inf, ""
    sums = start[inside].double()[:, None] + end[inside].double()[None, :]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    best = int(sums.masked_fill(~allowed, -torch.inf).argmax())
    first, last = divmod(best, len(inside))
    text = "".join(spelt[token] or "" for token in inside[first : last + 1].tolist())
    return float(sums.flatten()[best]), text.strip()
