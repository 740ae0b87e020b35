"""One tag per word: token classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification
from typing_extensions import override

from ftlib.data.iob2 import OUTSIDE
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.drawn_answers import drawn_log_probs, uniforms
from ftlib.kinds.heads.base import Answers, Head, Request
from ftlib.kinds.heads.labels import positions
from ftlib.kinds.outcomes import TaggedOutcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets


class TagHead(Head):
    """A tag for every word: one logit a label at the first token of each word."""

    auto_class: ClassVar[Any] = AutoModelForTokenClassification
    largest_batch: ClassVar[int] = 32_768

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {"num_labels": len(labels)}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> TagTargets:
        return TagTargets(table["target"], labels, path)

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return that of a tag for every word that is taught one."""
        assert batch.targets is not None
        taught = batch.targets != UNTAUGHT
        logits: Tensor = model(**batch.inputs).logits[:, : taught.shape[1]][taught]
        return drawn_log_probs(logits, uniforms(random, len(logits), logits.device)).sum()

    @override
    def answers(self, asked: Request) -> TagAnswers:
        return TagAnswers(asked.split, asked.labels)


class TagTargets(Targets):
    """Each token's tag, as its place among the model's; after a row's tokens, those of words that were cut off."""

    def __init__(self, column: pa.ChunkedArray, labels: Sequence[str], path: Path) -> None:
        chunks: list[Any] = column.chunks
        tags = [_flat_positions(chunk, labels, path) for chunk in chunks]
        self._tags = np.concatenate(tags or [np.zeros(0, np.int32)])
        lengths = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
        self._starts: Int[np.ndarray, " rows+1"] = np.cumsum(np.concatenate([[0], *lengths]), dtype=np.int64)

    def of(self, row: int) -> Int[np.ndarray, " tokens"]:
        """Return a row's tags by token, then those beyond."""
        return self._tags[self._starts[row] : self._starts[row + 1]]

    def tensor(self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return rows x tokens, with `UNTAUGHT` where a token teaches nothing, and on padding."""
        tags = np.full((len(rows), int(lengths.max())), UNTAUGHT, np.int64)
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True)):
            tags[i, :length] = self.of(int(row))[:length]
        return torch.from_numpy(tags)


def _flat_positions(lists: Any, labels: Sequence[str], path: Path) -> Int[np.ndarray, " tokens"]:
    tags = lists.flatten()
    taught = tags.is_valid().to_numpy(zero_copy_only=False)
    flat = np.full(len(tags), UNTAUGHT, np.int32)
    flat[taught] = positions(pa.chunked_array([tags.drop_null()]), labels, path)
    return flat


class TagAnswers(Answers):
    """Collects every word's most probable tag."""

    def __init__(self, split: PreparedSplit, labels: tuple[str, ...]) -> None:
        assert isinstance(split.targets, TagTargets)
        self.nll = np.zeros(len(split), np.float64)
        self._split, self._targets, self._labels = split, split.targets, labels
        self._predicted: list[list[int]] = [[] for _ in range(len(split))]

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        assert batch.targets is not None
        logits: Tensor = model(**batch.inputs).logits
        log_probabilities, taught = logits.double().log_softmax(dim=-1), batch.targets != UNTAUGHT
        gold = log_probabilities.gather(2, batch.targets.clamp(min=0)[:, :, None])[:, :, 0]
        # `where`, not a product: a NaN on a padded position must not reach the sum.
        self.nll[rows] = -torch.where(taught, gold, 0.0).sum(dim=1).cpu().numpy()
        best = log_probabilities.argmax(dim=-1)
        for i, row in enumerate(rows):
            self._predicted[row] = best[i][taught[i]].tolist()

    @override
    def outcomes(self, common: Mapping[str, Any]) -> TaggedOutcomes:
        gold = [tags[tags != UNTAUGHT] for tags in map(self._targets.of, range(len(self.nll)))]
        beyond = (len(tags) - len(read) for tags, read in zip(gold, self._predicted, strict=True))
        return TaggedOutcomes(
            **common,
            nll=self.nll,
            targets=self._split.supervised,
            labels=self._labels,
            gold=tuple(self._named(tags.tolist()) for tags in gold),
            predicted=tuple(
                (*self._named(read), *[OUTSIDE] * unread) for read, unread in zip(self._predicted, beyond, strict=True)
            ),
        )

    def _named(self, tags: Sequence[int]) -> tuple[str, ...]:
        return tuple(self._labels[tag] for tag in tags)
