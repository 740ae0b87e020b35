"""One split of a prepared dataset, read in place."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int

from ftlib.config import BatchKind
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import SEGMENTS, Collator
from ftlib.kinds.targets import Targets


class PreparedSplit:
    """One split of a prepared dataset, memory-mapped: nothing is read before it is asked for.

    `ftlib.kinds.open_split` opens one.
    """

    def __init__(self, table: pa.Table, kind: BatchKind, targets: Targets | None) -> None:
        """Read `table` in place; `targets` are what its rows are taught, where the tokens do not say it themselves."""
        self.kind: BatchKind = kind
        self.targets = targets
        # One (offsets, tokens) pair per record batch: combining them would copy the whole split into memory.
        chunks = table["input_ids"].chunks
        self._chunks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks]
        self._starts: Int[np.ndarray, " chunks"] = np.cumsum([0] + [len(chunk) for chunk in chunks])[:-1]
        self.lengths: Int[np.ndarray, " rows"] = np.concatenate(
            [np.diff(offsets) for offsets, _ in self._chunks] or [np.zeros(0, np.int32)]
        )
        self.row_ids: pa.ChunkedArray = table["row_id"]
        self.slices = {c.removeprefix("slice:"): table[c] for c in table.column_names if c.startswith("slice:")}
        self.supervised: Int[np.ndarray, " rows"] = table["supervised"].to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self, row: SupportsIndex) -> Int[np.ndarray, " tokens"]:
        """Return one row's ids, as they lie in the file."""
        row = operator.index(row)
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, tokens = self._chunks[chunk]
        first = row - self._starts[chunk]
        return tokens[offsets[first] : offsets[first + 1]]

    def batch(self, rows: Sequence[int] | Int[np.ndarray, " rows"], collate: Collator) -> Batch:
        """Return these rows as a batch of the collator's model. Raises ModelError for tokens that it does not have."""
        inputs = {"input_ids": [self.tokens(row) for row in rows]}
        segments = None if self.targets is None else self.targets.segments(rows)
        padded = collate(inputs if segments is None else {**inputs, SEGMENTS: segments})
        targets = None if self.targets is None else self.targets.tensor(rows, self.lengths[rows])
        return Batch(
            input_ids=padded["input_ids"],
            attention_mask=padded["attention_mask"],
            supervised=torch.from_numpy(self.supervised[rows]).to(collate.device, non_blocking=True),
            targets=None if targets is None else targets.to(collate.device, non_blocking=True),
            segments=padded.get(SEGMENTS),
        )
