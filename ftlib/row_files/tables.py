"""Rows of a parquet file, at no more memory than its pages take, whatever they unpack to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftlib.artifacts import FileVersion
from ftlib.errors import DataError, first_line
from ftlib.row_files.budget import Budget, compare
from ftlib.row_files.delimited import refuse_twice
from ftlib.rows import BadRow, Row, Value, table_row

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

_BATCH, _NESTED_BATCH = 8192, 64
_HELD_BYTES = 8 << 20
"""What is unpacked into Python's own values at a time."""
_COLUMNS, _LEVELS = 10_000, 32


def read_parquet(file: FileVersion, row_bytes: int) -> Iterator[Row | BadRow]:
    """Read a table's rows in order."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with Path(file.uri).open("rb") as stream:
            table = parquet.ParquetFile(stream)
            nested = _refuse_shape(table, file.uri)
            # Left as dictionaries, since 40 GB of text fit into one of a few megabytes and the footer does not say so.
            text = [field.name for field in table.schema_arrow if pa.types.is_string(field.type)]
            table = parquet.ParquetFile(stream, read_dictionary=text)
            size = file.bytes // max(table.metadata.num_rows, 1)
            batches = table.iter_batches(batch_size=_NESTED_BATCH if nested else _BATCH, use_threads=False)
            yield from _rows(batches, file, size, row_bytes)
            stream.seek(0)  # the same open file: what was replaced meanwhile does not matter, what was overwritten does
            compare(file, hashlib.file_digest(cast("Any", stream), "sha256").hexdigest())
    except (pa.ArrowException, OSError) as error:
        what = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{file.uri} cannot be read as parquet: {what}; write it again") from error


def _refuse_shape(table: parquet.ParquetFile, uri: str) -> bool:
    """Return whether a column is nested. Raises DataError for what no table of rows looks like."""
    refuse_twice(table.schema_arrow.names, uri)
    columns = [table.schema.column(i) for i in range(min(len(table.schema), _COLUMNS + 1))]
    if len(columns) > _COLUMNS:
        raise DataError(f"{uri} has {len(table.schema)} columns, allowed {_COLUMNS}; name rows, not columns, by ids")
    deepest = max((column.path.count(".") for column in columns), default=0)
    if deepest > _LEVELS:
        raise DataError(f"{uri}: columns nested {deepest} levels deep, allowed {_LEVELS}; flatten them")
    return deepest > 0


def _rows(batches: Any, file: FileVersion, size: int, row_bytes: int) -> Iterator[Row | BadRow]:
    budget, number = Budget(file), 0
    for batch in batches:
        sizes = _unpacked(batch)
        budget.take(int(sizes.sum()))
        plain = all(_is_plain(field.type) for field in batch.schema)
        for start, stop in _slices(sizes, row_bytes):
            if sizes[start] > row_bytes:
                number += 1
                detail = f"{int(sizes[start])} bytes, allowed {row_bytes}"
                yield BadRow(file.uri, number, int(sizes[start]), "too_large", detail)
                continue
            for cells in _cells(batch.slice(start, stop - start)):
                number += 1
                if isinstance(cells, str):
                    yield BadRow(file.uri, number, size, "invalid_utf8", "bytes that are not UTF-8", cells)
                elif plain:
                    yield Row(file.uri, number, size, cast("dict[str, Value]", cells))
                else:
                    yield table_row(file.uri, number, size, cells)


def _is_plain(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _unpacked(batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return every row's size when unpacked; for other columns than text, the batch's average."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        if pa.types.is_dictionary(column.type) and pa.types.is_string(column.type.value_type):
            lengths = pc.call_function("binary_length", [column.dictionary]).fill_null(0).take(column.indices)
            sizes += lengths.fill_null(0).to_numpy(zero_copy_only=False)
        else:
            sizes += column.nbytes // max(batch.num_rows, 1)
    return sizes


def _slices(sizes: np.ndarray[Any, np.dtype[np.int64]], row_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows into pieces that are held at a time; a row that is too large is a piece of its own."""
    import numpy as np

    ends = np.cumsum(sizes)
    large = [*np.flatnonzero(sizes > row_bytes).tolist(), len(sizes)]
    start = 0
    for stop in large:
        while start < stop:
            before = int(ends[start - 1]) if start else 0
            cut = int(np.searchsorted(ends, before + _HELD_BYTES, "right"))
            end = min(max(cut, start + 1), stop)
            yield start, end
            start = end
        if stop < len(sizes):
            yield stop, stop + 1
            start = stop + 1


def _cells(piece: pa.RecordBatch) -> Iterator[dict[str, object] | str]:
    """Yield every row's cells, or the column that holds bytes which are no text."""
    import pyarrow as pa

    names = piece.schema.names
    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in piece.columns]
    try:
        lists = [column.to_pylist() for column in columns]
    except UnicodeDecodeError:  # parquet does not check its text, and neither does Arrow
        for i in range(piece.num_rows):
            yield _checked_row(names, [column.slice(i, 1) for column in columns])
        return
    for cells in zip(*lists, strict=True):
        yield dict(zip(names, cells, strict=True))


def _checked_row(names: list[str], columns: list[pa.Array]) -> dict[str, object] | str:
    cells: dict[str, object] = {}
    for name, column in zip(names, columns, strict=True):
        try:
            cells[name] = column[0].as_py()
        except UnicodeDecodeError:
            return name
    return cells
