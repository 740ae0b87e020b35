"""Rows of a parquet file, at no more memory than its pages take, whatever they unpack to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ftlib.data.images.columns import taken_from
from ftlib.data.listed import FileVersion
from ftlib.data.row_files.budget import Budget, compare
from ftlib.data.row_files.cells import rows_of
from ftlib.data.row_files.class_names import Namer, namers, stored_features
from ftlib.data.row_files.delimited import refuse_twice
from ftlib.data.rows import BadRow, Row, too_large
from ftlib.errors import DataError, first_line

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

_BATCH, _NESTED_BATCH = 8192, 64
_HELD_BYTES = 8 << 20
"""What is unpacked into Python's own values at a time."""
_COLUMNS, _LEVELS = 10_000, 32


def read_parquet(
    file: FileVersion, row_bytes: int, drop: frozenset[str] = frozenset(), images: Sequence[str] = ()
) -> Iterator[Row | BadRow]:
    """Read a table's rows in order, but for the columns to drop. Classes have their names where the file says them.

    Bytes in the columns `images` are those of image files; in others they are no values.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with Path(file.uri).open("rb") as stream:
            table = parquet.ParquetFile(stream)
            nested = _refuse_shape(table, file.uri)
            # Left as dictionaries, since 40 GB of text fit into one of a few megabytes and the footer does not say so.
            text = [field.name for field in table.schema_arrow if pa.types.is_string(field.type)]
            # Spark's old dates count nanoseconds from 1970 and reach 2262 at most: beyond that they would wrap.
            table = parquet.ParquetFile(
                stream,
                read_dictionary=text,
                coerce_int96_timestamp_unit="us",
                pre_buffer=False,  # else all that was read stays in memory until the last row
            )
            size = file.bytes // max(table.metadata.num_rows, 1)
            batches = _batches(table, drop, _rows_at_once(table, _NESTED_BATCH if nested else _BATCH))
            named = {**namers(stored_features(table.schema_arrow.metadata)), **taken_from(images)}
            yield from _rows(batches, file, size, row_bytes, named, images)
            stream.seek(0)  # the same open file: what was replaced meanwhile does not matter, what was overwritten does
            compare(file, hashlib.file_digest(cast("Any", stream), "sha256").hexdigest())
    except (pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(f"{file.uri} cannot be read as parquet: {reason}; write it again") from error


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


def _rows_at_once(table: parquet.ParquetFile, most: int) -> int:
    """Return how many rows are read at a time: fewer where they are large, as images are, going by the largest group.

    A group that keeps its texts as a dictionary says less than they unpack to; they stay a dictionary when read.
    """
    groups = (table.metadata.row_group(i) for i in range(table.metadata.num_row_groups))
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(most, _HELD_BYTES // max(largest, 1)))


def _batches(table: parquet.ParquetFile, drop: frozenset[str], rows: int) -> Iterator[pa.RecordBatch]:
    if not drop:
        yield from table.iter_batches(batch_size=rows, use_threads=False)
        return
    kept = [name for name in table.schema_arrow.names if name not in drop]
    # To parquet a name is the beginning of a path: asked for "a" it gives a column "a.b" too.
    for batch in table.iter_batches(batch_size=rows, columns=kept, use_threads=False):
        yield batch.select(kept)


def _rows(
    batches: Iterator[pa.RecordBatch],
    file: FileVersion,
    size: int,
    row_bytes: int,
    classes: Mapping[str, Namer],
    images: Sequence[str],
) -> Iterator[Row | BadRow]:
    budget, number = Budget(file), 0
    for batch in batches:
        sizes = _unpacked(batch)
        budget.take(int(sizes.sum()))
        for start, stop in _slices(sizes, row_bytes):
            if sizes[start] > row_bytes:
                number += 1
                largest = _largest(batch.slice(start, 1))
                yield too_large(file.uri, number, int(sizes[start]), row_bytes, largest, image=largest in images)
                continue
            yield from rows_of(batch.slice(start, stop - start), classes, file.uri, number, size)
            number += stop - start


def _largest(row: pa.RecordBatch) -> str:
    return max(row.schema.names, key=lambda name: int(_sizes(row.column(name))[0]))


def _unpacked(batch: pa.RecordBatch) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return every row's size when unpacked."""
    import numpy as np

    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += _sizes(column)
    return sizes


def _sizes(column: pa.Array) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return every cell's size when unpacked: of text and lists their own, since one may be all that a batch holds."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_dictionary(kind) and pa.types.is_string(kind.value_type):
        lengths = pc.call_function("binary_length", [column.dictionary]).fill_null(0).take(column.indices)
        return lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if _is_text(kind):
        return pc.call_function("binary_length", [column]).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        ends = np.concatenate(([0], np.cumsum(_sizes(column.values))))
        offsets = column.offsets.to_numpy()
        return ends[offsets[1:]] - ends[offsets[:-1]]
    if pa.types.is_struct(kind) and kind.num_fields:
        return _unpacked(pa.RecordBatch.from_struct_array(column))
    return np.full(len(column), column.nbytes // max(len(column), 1), np.int64)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    of_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return of_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


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
