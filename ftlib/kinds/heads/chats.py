"""The assistant's turns of a chat: their likelihood, and what the model writes in place of the last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from typing_extensions import override

from ftlib.data.inputs import ATTENTION_MASK, INPUT_IDS
from ftlib.kinds.batch import Batch
from ftlib.kinds.heads.base import Request
from ftlib.kinds.heads.completions import CompletionAnswers, CompletionHead, References


class ChatHead(CompletionHead):
    """Turns of a chat: those that its targets mark are predicted, and the last is written where it is asked for."""

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> TurnTargets:
        return TurnTargets(table["target"])

    @override
    def answers(self, asked: Request) -> ChatAnswers:
        return ChatAnswers(asked)


class TurnTargets(References):
    """Which tokens of each chat are learnt, and the text of its last answer."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        fields = [(chunk.field("places"), chunk.field("answer"), chunk.field("end")) for chunk in column.chunks]
        super().__init__(pa.chunked_array([answers for _, answers, _ in fields], pa.string()))
        self.places: list[list[int]] = [row for places, _, _ in fields for row in places.to_pylist()]
        """Of each row: first places, and those behind the last, in turn."""
        self.ends = frozenset(end for _, _, ends in fields for end in ends.to_pylist() if end is not None)

    def marks(self, row: int, width: int) -> Bool[np.ndarray, " width"]:
        """Return which of a row's tokens are learnt."""
        marks = np.zeros(width, bool)
        for first, end in zip(self.places[row][::2], self.places[row][1::2], strict=True):
            marks[first:end] = True
        return marks

    def prompt_end(self, row: int, length: int) -> int:
        """Return where a row's last answer begins: behind its `length` where it is a prompt alone."""
        return self.places[row][-2] if self.places[row] else length

    @override
    def tensor(
        self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]
    ) -> Bool[Tensor, "rows width"]:
        """Return what is learnt, padded with what is not."""
        width = int(max(lengths, default=0))
        return torch.from_numpy(np.stack([self.marks(int(row), width) for row in rows]))


class ChatAnswers(CompletionAnswers):
    """Collects the likelihood of the turns that are learnt, and what the model writes in place of the last."""

    @property
    def _turns(self) -> TurnTargets:
        assert isinstance(self.split.targets, TurnTargets)
        return self.split.targets

    @property
    @override
    def ends(self) -> frozenset[int]:
        return self._turns.ends

    @override
    def prompts(self, batch: Batch, rows: Int[np.ndarray, " rows"]) -> list[Tensor]:
        ids, lengths = batch.inputs[INPUT_IDS], batch.inputs[ATTENTION_MASK].sum(dim=1).tolist()
        turns = zip(ids, rows.tolist(), lengths, strict=True)
        return [own[: self._turns.prompt_end(row, length)] for own, row, length in turns]

    @override
    def learnt(self, row: int) -> Int[np.ndarray, " tokens"]:
        ids = self.split.tokens(row)
        return ids[self._turns.marks(row, len(ids))]
