"""One split of a prepared dataset, read in place."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ftlib.config import BatchKind
from ftlib.data.inputs import SEGMENTS, Input, Marks, Numbers, Pixels, Tokens, answer_input, from_metadata
from ftlib.data.prepared import PROMPT, SCORE, SLICE
from ftlib.kinds.augment import Augment
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.draws import Draw
from ftlib.kinds.targets import Targets

Rows = Sequence[int] | Int[np.ndarray, " rows"]


class PreparedSplit:
    """One split of a prepared dataset, memory-mapped: nothing is read before it is asked for.

    `ftlib.kinds.open_split` opens one.
    """

    def __init__(self, table: pa.Table, kind: BatchKind, targets: Targets | None, task: str | None = None) -> None:
        """Read `table` in place; `targets` are what its rows are taught, where the tokens do not say it themselves."""
        self.kind: BatchKind = kind
        self.targets, self.task = targets, task
        self.inputs = from_metadata(table.schema.metadata)
        self._columns = {column.name: _column(table[column.name], column) for column in self.inputs}
        several = None if targets is None else targets.sizes()
        self.sizes: Int[np.ndarray, " rows"] = (
            _sizes(self.inputs, self._columns, len(table)) if several is None else several
        )
        """What each row costs: batches are built by it. For text, its tokens, of several sequences padded ones."""
        self._answers = answer_input(self._columns)
        ids = self._columns.get(self._answers)
        self.lengths: Int[np.ndarray, " rows"] = (
            ids.lengths if isinstance(ids, Lists) else np.zeros(len(table), np.int32)
        )
        """Each row's tokens, where it has `input_ids`; else 0. Of an encoder-decoder's rows, its decoder's."""
        self.lists = {name: column.lengths for name, column in self._columns.items() if isinstance(column, Lists)}
        """How long each row's lists are, by the input: of an encoder-decoder its source and its target."""
        self.row_ids: pa.ChunkedArray = table["row_id"]
        self.slices = {name.removeprefix(SLICE): table[name] for name in table.column_names if name.startswith(SLICE)}
        self.scores: dict[str, Scores] = {
            name.removeprefix(SCORE): _scores(table[name]) for name in table.column_names if name.startswith(SCORE)
        }
        """Numbers that a frozen model gave each row, by name."""
        self.asked: pa.ChunkedArray | None = table[PROMPT] if PROMPT in table.column_names else None
        """Each row's prompt as it was asked, as text (`ftlib.data.prompts`); None for rows that are not quoted."""
        self.supervised: Int[np.ndarray, " rows"] = table["supervised"].to_numpy().astype(np.int64)

    def __len__(self) -> int:
        return len(self.supervised)

    def tokens(self, row: SupportsIndex) -> Int[np.ndarray, " tokens"]:
        """Return the ids of one row's `input_ids`, or of its decoder's, as they lie in the file."""
        return self._columns[self._answers][row]

    def drawn(self, draw: Draw) -> PreparedSplit:
        """Return the same rows under another draw, in the same memory; of a kind that draws nothing, this split."""
        targets = self.targets and self.targets.drawn(draw)
        if targets is self.targets:
            return self
        other = copy.copy(self)
        other.targets = targets
        return other

    def awaiting(self, scores: Mapping[str, tuple[int, ...]]) -> PreparedSplit:
        """Return the same rows with zeros, of these shapes a row, for scores that they do not have yet."""
        other = copy.copy(self)
        other.scores = {**{name: _Zeros(shape) for name, shape in scores.items()}, **self.scores}
        return other

    def terms(self, rows: Rows) -> Int[np.ndarray, " rows"]:
        """Return the terms of each row's loss: what the format counted, or what this draw comes to."""
        counted = None if self.targets is None else self.targets.terms(rows)
        return self.supervised[rows] if counted is None else counted

    def pixels(self, rows: Rows, name: str) -> list[UInt8[np.ndarray, "3 height width"]]:
        """Return the images of rows, as they lie in the file's column of that name."""
        return [self._columns[name][row] for row in rows]

    def pack(self, rows: Rows, collate: Collator) -> Batch:
        """Return these rows as a pack, one behind the other; of a kind that packs (`ftlib.kinds.kind`).

        Raises ModelError for tokens that the collator's model does not have.
        """
        cells = {name: [column[row] for row in rows] for name, column in self._columns.items()}
        inputs, borders, longest = collate.pack(cells, self.inputs)
        return replace(self._taught(rows, collate), inputs=inputs, borders=borders, longest=longest)

    def batch(self, rows: Rows, collate: Collator, augment: Augment | None = None) -> Batch:
        """Return these rows as a batch of the collator's model, their pixels and boxes changed by `augment`, if given.

        Raises ModelError for tokens that it does not have, or an input that it does not take.
        """
        inputs, cells = self.inputs, {name: [column[row] for row in rows] for name, column in self._columns.items()}
        if augment is not None:
            for column in (one for one in inputs if isinstance(one, Pixels)):
                pixels = zip(rows, cells[column.name], strict=True)
                cells[column.name] = [augment(int(row), cell) for row, cell in pixels]
        if self.targets is not None and (read := self.targets.read(rows)) is not None:
            cells[self._answers] = read
        if self.targets is not None and (segments := self.targets.segments(rows)) is not None:
            inputs, cells = (*inputs, Marks(name=SEGMENTS)), {**cells, SEGMENTS: segments}
        return replace(self._taught(rows, collate, augment), inputs=collate(cells, inputs))

    def _taught(self, rows: Rows, collate: Collator, augment: Augment | None = None) -> Batch:
        """Return all of a batch but its inputs."""
        targets = None if self.targets is None else self.targets.tensor(rows, self.lengths[rows])
        if self.targets is not None and targets is not None and augment is not None:
            targets = self.targets.mirrored(targets, [augment.mirrors(int(row)) for row in rows])
        terms = self.terms(rows)
        return Batch(
            inputs={},
            supervised=collate.sent(torch.from_numpy(terms)),
            targets=None if targets is None else collate.sent(targets),
            terms=int(terms.sum()),
            rows=np.array(rows, np.int64),  # a copy: torch takes no view that runs backwards
            columns={name: collate.sent(of.tensor(rows)) for name, of in self.scores.items()},
            task=self.task,
        )


class Lists:
    """A column of lists: one (offsets, values) pair for each record batch, as combining them would copy the split."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        chunks: list[Any] = column.chunks
        self._chunks = [(chunk.offsets.to_numpy(), chunk.values.to_numpy()) for chunk in chunks]
        self._starts: Int[np.ndarray, " chunks"] = np.cumsum([0] + [len(chunk) for chunk in chunks])[:-1]
        self.lengths: Int[np.ndarray, " rows"] = np.concatenate(
            [np.diff(offsets) for offsets, _ in self._chunks] or [np.zeros(0, np.int32)]
        )

    def __getitem__(self, row: SupportsIndex) -> Any:
        row = operator.index(row)
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        offsets, values = self._chunks[chunk]
        first = row - self._starts[chunk]
        return values[offsets[first] : offsets[first + 1]]

    def tensor(self, rows: Rows) -> Tensor:
        """Return rows x the longest of them, padded with 0."""
        cells = [self[row] for row in rows]
        filled = np.zeros((len(cells), max(map(len, cells), default=0)), self._chunks[0][1].dtype)
        for cell, place in zip(cells, filled, strict=True):
            place[: len(cell)] = cell
        return torch.from_numpy(filled)


class _Arrays:
    """A column of arrays of one shape."""

    def __init__(self, column: pa.ChunkedArray, shape: tuple[int, ...]) -> None:
        chunks: list[Any] = column.chunks
        self._chunks = [chunk.flatten().to_numpy().reshape(-1, *shape) for chunk in chunks]
        self._starts: Int[np.ndarray, " chunks"] = np.cumsum([0] + [len(chunk) for chunk in chunks])[:-1]

    def __getitem__(self, row: SupportsIndex) -> Any:
        row = operator.index(row)
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._chunks[chunk][row - self._starts[chunk]]

    def tensor(self, rows: Rows) -> Tensor:
        """Return rows x the shape."""
        return torch.from_numpy(np.stack([self[row] for row in rows]))


class _Values:
    """A column of one number a row."""

    def __init__(self, values: Float[np.ndarray, " rows"]) -> None:
        self._values = values

    def tensor(self, rows: Rows) -> Tensor:
        """Return a number for each row."""
        return torch.from_numpy(self._values[rows])


class _Zeros:
    """A column that is not there yet."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def tensor(self, rows: Rows) -> Tensor:
        """Return rows x the shape."""
        return torch.zeros((len(rows), *self._shape))


def _column(column: pa.ChunkedArray, input: Input) -> Lists | _Arrays:
    return _Arrays(column, input.shape) if isinstance(input, Numbers | Pixels) else Lists(column)


Scores = Lists | _Arrays | _Values | _Zeros


def _scores(column: pa.ChunkedArray) -> Scores:
    if pa.types.is_fixed_size_list(column.type):
        return _Arrays(column, (column.type.list_size,))
    return Lists(column) if pa.types.is_list(column.type) else _Values(column.to_numpy())


def _sizes(inputs: Sequence[Input], columns: Mapping[str, Lists | _Arrays], rows: int) -> Int[np.ndarray, " rows"]:
    """Return what `ftlib.data.inputs.row_size` says of every row, without reading any."""
    lists = [columns[input.name] for input in inputs if isinstance(input, Tokens)]
    constant = sum(input.counts for input in inputs if isinstance(input, Numbers | Pixels))
    lengths = [column.lengths for column in lists if isinstance(column, Lists)]
    if len(lengths) == 1 and not constant:
        return lengths[0]
    return np.sum([np.full(rows, constant, np.int64), *lengths], axis=0)
