"""A split of a prepared dataset from its file, with the targets that its kind's head reads from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from ftlib.config import BatchKind
from ftlib.kinds.kind import KINDS
from ftlib.kinds.split import PreparedSplit


def open_split(path: Path, labels: Sequence[str]) -> PreparedSplit:
    """Map a split's file (Arrow IPC) into memory; `labels` are the model's, in its order.

    Raises DataError if a row's label is not among `labels`.
    """
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    kind = cast(BatchKind, (table.schema.metadata or {})[b"kind"].decode())
    column = table["target"] if "target" in table.column_names else None
    return PreparedSplit(table, kind, KINDS[kind].head().targets(column, labels, path))
