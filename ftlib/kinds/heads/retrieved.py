"""Texts that are found by one another: sentence embeddings, by a model without a head."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoModel
from typing_extensions import override

from ftlib.data.inputs import INPUT_IDS
from ftlib.kinds.batch import Batch
from ftlib.kinds.heads.base import Answers, Head, Request
from ftlib.kinds.outcomes import RetrievalOutcomes
from ftlib.kinds.pooling import pooled
from ftlib.kinds.split import Lists, PreparedSplit, Rows
from ftlib.kinds.targets import Targets


class RetrievalHead(Head):
    """A vector for each text: the mean of its tokens. The model is one without a head."""

    auto_class: ClassVar[Any] = AutoModel
    largest_batch: ClassVar[int] = 32_768

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> Texts:
        return Texts(Lists(table[INPUT_IDS]), Lists(table["target"]))

    @override
    def logits(self, output: Any) -> Tensor:
        return output.last_hidden_state

    @override
    def answers(self, asked: Request) -> RetrievalAnswers:
        return RetrievalAnswers(asked.split)


class Texts(Targets):
    """The texts of each row, which the model reads as rows of their own: anchor, positive and, if any, negative."""

    def __init__(self, tokens: Lists, ends: Lists) -> None:
        self._tokens, self._ends = tokens, ends

    @override
    def read(self, rows: Rows) -> list[Int[np.ndarray, " tokens"]]:
        return [text for row in rows for text in self._of(int(row))]

    @override
    def tensor(self, rows: Rows, lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return rows x texts: a number for each text, the same for the same tokens, below 2^53."""
        return torch.tensor([[_key(text) for text in self._of(int(row))] for row in rows], dtype=torch.int64)

    def _of(self, row: int) -> list[Int[np.ndarray, " tokens"]]:
        return np.split(self._tokens[row], self._ends[row][:-1])


def _key(text: Int[np.ndarray, " tokens"]) -> int:
    digest = hashlib.blake2b(text.astype("<i4").tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 12


class RetrievalAnswers(Answers):
    """Collects the vectors of anchors and positives; the table ranks them once all rows are there."""

    def __init__(self, split: PreparedSplit) -> None:
        self.nll = np.zeros(len(split), np.float64)
        self._keys = np.zeros((len(split), 2), np.int64)
        self._vectors = np.zeros((len(split), 0, 0), np.float32)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        assert batch.targets is not None
        vectors = pooled(model, batch.inputs).unflatten(0, batch.targets.shape)[:, :2].cpu().numpy()
        if not self._vectors.size:
            self._vectors = np.zeros((len(self.nll), *vectors.shape[1:]), np.float32)
        self._vectors[rows], self._keys[rows] = vectors, batch.targets[:, :2].cpu().numpy()
        self.nll[rows] = np.where(np.isfinite(vectors).all((1, 2)), 0.0, np.nan)  # what is no number is refused

    @override
    def outcomes(self, common: Mapping[str, Any]) -> RetrievalOutcomes:
        ones = np.ones(len(self.nll), np.int64)
        return RetrievalOutcomes(
            **common, nll=self.nll, targets=ones, rank=0 * ones, vectors=self._vectors, keys=self._keys
        )
