"""A split of a prepared dataset from its file, with the targets that its kind's head reads from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from ftlib.config import BatchKind
from ftlib.errors import DataError
from ftlib.kinds.kind import KINDS
from ftlib.kinds.split import PreparedSplit


def open_split(path: Path, labels: Sequence[str], task: str | None = None) -> PreparedSplit:
    """Map a split's file (Arrow IPC) into memory; `labels` are the model's, in its order, or those of the `task`.

    Raises DataError if a row's label is not among `labels`.
    """
    return _split(_table(path), labels, path, task)


def open_splits(paths: Sequence[Path], labels: Sequence[str], task: str | None = None) -> PreparedSplit:
    """Map splits of one kind into memory as one, their rows in this order; slices that not all have are left out.

    Raises DataError as `open_split` does, and for splits whose columns differ.
    """
    tables = [_table(path) for path in paths]
    shared = [name for name in tables[0].column_names if all(name in table.column_names for table in tables)]
    tables = [table.select(shared) for table in tables]
    for path, table in zip(paths, tables, strict=True):
        if not table.schema.equals(tables[0].schema, check_metadata=True):
            raise DataError(
                f"{path} and {paths[0]} have rows of other columns, which do not go into one batch; give both datasets "
                "the same format, or mix them with batches: apart"
            )
    return _split(pa.concat_tables(tables), labels, paths[0], task)


def _table(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _split(table: pa.Table, labels: Sequence[str], path: Path, task: str | None) -> PreparedSplit:
    kind = cast(BatchKind, (table.schema.metadata or {})[b"kind"].decode())
    return PreparedSplit(table, kind, KINDS[kind].head().targets(table, labels, path), task)
