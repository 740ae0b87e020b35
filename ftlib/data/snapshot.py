"""The rows of an ingested dataset: one parquet file, written in two passes and read in batches, never held whole.

A column is text, integers, floats or truth values if all its values are. A column of mixed or nested values is kept
as JSON text, marked in the schema, and comes back as it was: ingestion loses and converts nothing, and a format says
what it has no use for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

from ftlib.data.rows import FILE, ROW_ID, Checked, Value

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from pyarrow import parquet

T = TypeVar("T")
ColumnKind = Literal["string", "int64", "double", "bool", "json"]

_JSON = {b"reglage": b"json"}
_BATCH, _BATCH_BYTES = 1000, 16 << 20
"""Rows of a batch, and the bytes that close it before: a thousand images would be a gigabyte."""
_ROW_GROUP_BYTES = 8 << 20
_LARGE_CELL = 16 << 10
"""Bytes of a column's cells, in the mean of a batch, from which on they are no dictionary."""
_BYTES = "_bytes"
"""A spooled row's size, by which batches and row groups are cut."""
_KINDS: dict[type, ColumnKind] = {str: "string", int: "int64", float: "double", bool: "bool"}


class Snapshot(NamedTuple):
    """What was written."""

    rows: int
    columns: tuple[str, ...]
    content: str
    """sha256 over the ids of the rows in order."""


@dataclass
class Spooled:
    """What is known of rows that were spooled, before a column's type is."""

    rows: int = 0
    kinds: dict[str, set[ColumnKind]] = field(default_factory=dict[str, set[ColumnKind]])
    large: set[str] = field(default_factory=set[str])
    """Columns whose cells are large."""

    def merge(self, other: Spooled) -> None:
        """Take in what is known of other rows."""
        self.rows += other.rows
        self.large |= other.large
        for name, kinds in other.kinds.items():
            self.kinds.setdefault(name, set()).update(kinds)


class Spool(NamedTuple):
    """Spooled rows, and which of them stay."""

    path: Path
    keep: NDArray[np.bool_] | None = None


def write_snapshot(
    path: Path, rows: Iterable[Checked], keep: Callable[[], NDArray[np.bool_] | None] = lambda: None
) -> Snapshot:
    """Write rows to a parquet file. Memory is bounded by the batch; a temporary file beside `path` holds the rows.

    `keep` is asked behind the last row which of the rows are to stay.
    """
    spool = path.with_suffix(".spool")
    try:
        with spool.open("wb") as stream:
            spooled = spool_rows(stream, rows)
        return write_spooled(path, [Spool(spool, keep())], spooled)
    finally:
        spool.unlink(missing_ok=True)


def spool_rows(stream: IO[bytes], rows: Iterable[Checked]) -> Spooled:
    """Write rows as they come: every batch with the types that it has by itself."""
    import pyarrow as pa

    spooled = Spooled()
    for batch in in_batches(rows, lambda row: row.bytes, _BATCH, _BATCH_BYTES):
        table = _typed_batch(batch)
        spooled.rows += table.num_rows
        for column in table.schema:
            spooled.kinds.setdefault(column.name, set()).add(_kind_of(column))
            if table[column.name].nbytes > _LARGE_CELL * table.num_rows:
                spooled.large.add(column.name)
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_batch(table)
    return spooled


def write_spooled(path: Path, spools: Iterable[Spool], spooled: Spooled) -> Snapshot:
    """Write spooled rows to one parquet file, whose bytes depend on the rows alone and not on how they were spooled.

    A column's type is known only after the last row, so this second pass casts whole columns.
    """
    kinds: dict[str, ColumnKind] = {
        name: _resolve(spooled.kinds[name]) for name in sorted(spooled.kinds) if name not in (ROW_ID, FILE, _BYTES)
    }
    count, content = _write_parquet(path, spools, kinds, spooled.large)
    return Snapshot(count, tuple(kinds), content)


class Block(NamedTuple):
    """Rows of a snapshot that are worked on together: from `start` to before `stop`."""

    number: int
    start: int
    stop: int


def blocks_of(path: Path, least: int) -> list[Block]:
    """Cut a snapshot into blocks of about so many bytes, which end where batches of `read_batches` do."""
    with _opened(path) as table:
        rows, groups = table.metadata.num_rows, table.metadata.num_row_groups
        size = sum(table.metadata.row_group(i).total_byte_size for i in range(groups))
    each = max(1, round(least * rows / max(size, 1) / _BATCH)) * _BATCH
    return [Block(i, start, min(start + each, rows)) for i, start in enumerate(range(0, rows, each))]


def read_snapshot(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[str, dict[str, Value]]]:
    """Yield (row id, values without nulls) in order, of all rows or of those from `start` to before `stop`."""
    with _opened(path) as table:
        nested = {field.name for field in table.schema_arrow if field.metadata == _JSON}
        for batch in _batches(table, start, stop):
            for cells in batch.to_pylist():
                row_id = cells.pop(ROW_ID)
                cells.pop(FILE, None)
                yield (
                    row_id,
                    {
                        name: json.loads(cell) if name in nested else cell
                        for name, cell in cells.items()
                        if cell is not None
                    },
                )


def _batches(table: parquet.ParquetFile, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
    """Yield the rows from `start` to before `stop`, and unpack no row group that has none of them."""
    groups: list[int] = []
    before = skip = 0
    for i in range(table.metadata.num_row_groups):
        after = before + table.metadata.row_group(i).num_rows
        if after > start and (stop is None or before < stop):
            skip = skip if groups else start - before
            groups.append(i)
        before = after
    left = (before if stop is None else stop) - start
    if not groups:
        return
    for batch in table.iter_batches(batch_size=_rows_at_once(table), row_groups=groups, use_threads=False):
        wanted = batch.slice(min(skip, batch.num_rows), left)
        skip = max(0, skip - batch.num_rows)
        left -= wanted.num_rows
        if wanted.num_rows:
            yield wanted
        if left == 0:
            return


def read_origins(path: Path) -> Iterator[tuple[str, int | None]]:
    """Yield (row id, the place of its file in `RawDataset.files`) in order, reading nothing else."""
    for row_id, file in read_column(path, FILE):
        yield row_id, cast("int | None", file)


def rows_by_file(path: Path) -> Counter[int | None]:
    """Count the rows of each file, by its place in `RawDataset.files`; None where the source does not say."""
    counts: Counter[int | None] = Counter()
    with _opened(path) as table:
        for batch in table.iter_batches(columns=[FILE], use_threads=False):
            for item in batch.column(0).value_counts().to_pylist():
                counts[item["values"]] += item["counts"]
    return counts


def read_column(path: Path, name: str) -> Iterator[tuple[str, Value]]:
    """Yield (row id, a column's value) in order, reading nothing else."""
    with _opened(path) as table:
        nested = table.schema_arrow.field(name).metadata == _JSON
        for batch in table.iter_batches(batch_size=_rows_at_once(table), columns=[ROW_ID, name], use_threads=False):
            ids, cells = batch.column(ROW_ID).to_pylist(), batch.column(name).to_pylist()
            if nested:
                cells = [None if cell is None else json.loads(cell) for cell in cells]
            yield from zip(ids, cells, strict=True)


def in_batches(rows: Iterable[T], size: Callable[[T], int], most: int, most_bytes: int) -> Iterator[list[T]]:
    """Gather rows into batches of at most `most`, closed as soon as they have `most_bytes` together."""
    batch: list[T] = []
    held = 0
    for row in rows:
        batch.append(row)
        held += size(row)
        if len(batch) == most or held >= most_bytes:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _opened(path: Path) -> parquet.ParquetFile:
    """Open a snapshot to be read in batches. By itself pyarrow buffers every column it has read, until the last."""
    from pyarrow import parquet

    return parquet.ParquetFile(path, pre_buffer=False)


def _rows_at_once(table: parquet.ParquetFile) -> int:
    """Return how many rows are read at a time, going by the largest group of the file."""
    groups = (table.metadata.row_group(i) for i in range(table.metadata.num_row_groups))
    largest = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, min(_BATCH, _BATCH_BYTES // max(largest, 1)))


def _resolve(kinds: set[ColumnKind]) -> ColumnKind:
    return next(iter(kinds)) if len(kinds) == 1 else "json"


def _field(name: str, kind: ColumnKind) -> pa.Field:
    import pyarrow as pa

    return pa.field(
        name, pa.string() if kind == "json" else pa.type_for_alias(kind), metadata=_JSON if kind == "json" else None
    )


def _kind_of(field: pa.Field) -> ColumnKind:
    return "json" if field.metadata == _JSON else cast("ColumnKind", str(field.type))


def _typed_batch(rows: Sequence[Checked]) -> pa.RecordBatch:
    """Return rows as columns, each of the type that its values have here."""
    import pyarrow as pa

    arrays: list[Any] = [
        pa.array([row.row_id for row in rows], pa.string()),
        pa.array([row.file for row in rows], pa.int32()),
        pa.array([row.bytes for row in rows], pa.int64()),
    ]
    fields = [*_own_fields(), pa.field(_BYTES, pa.int64())]
    values = [row.values for row in rows]
    for name in dict.fromkeys(chain.from_iterable(values)):
        kind, array = _column([row.get(name) for row in values])
        arrays.append(array)
        fields.append(_field(name, kind))
    return pa.record_batch(arrays, schema=pa.schema(fields))


def _column(cells: list[Value]) -> tuple[ColumnKind, pa.Array]:
    import pyarrow as pa

    types = set(map(type, cells)) - {type(None)}
    kind = _KINDS.get(next(iter(types)), "json") if len(types) == 1 else "json"
    if kind != "json":
        try:
            return kind, pa.array(cells, pa.type_for_alias(kind))
        except (OverflowError, pa.ArrowInvalid):  # an integer of more than 64 bits
            pass
    return "json", pa.array([_text(cell) for cell in cells], pa.string())


def _own_fields() -> list[pa.Field]:
    import pyarrow as pa

    return [pa.field(ROW_ID, pa.string()), pa.field(FILE, pa.int32())]


def _write_parquet(
    path: Path, spools: Iterable[Spool], kinds: dict[str, ColumnKind], large: set[str]
) -> tuple[int, str]:
    """Write the rows to keep; return how many they are, and the sha256 of their ids.

    Columns of `large` cells are no dictionaries: of an image that is there a thousand times the footer would say the
    size of one, and a reader goes by it.
    """
    import pyarrow as pa
    from pyarrow import parquet

    count, content = 0, hashlib.sha256()
    schema = pa.schema([*_own_fields(), *(_field(name, kind) for name, kind in kinds.items())])
    short: Any = [name for name in schema.names if name not in large] if large else True
    with parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=short) as writer:
        for group in _row_groups(_rebatched(_kept(spools, schema))):
            writer.write_table(pa.Table.from_batches(group).select(schema.names))
            for batch in group:
                count += batch.num_rows
                content.update("".join(batch.column(ROW_ID).to_pylist()).encode())
    return count, content.hexdigest()


class _Piece(NamedTuple):
    batch: pa.RecordBatch
    """Rows with the types of the whole file, and their sizes."""
    keep: NDArray[np.bool_] | None


def _kept(spools: Iterable[Spool], schema: pa.Schema) -> Iterator[_Piece]:
    import pyarrow as pa

    whole = schema.append(pa.field(_BYTES, pa.int64()))
    for spool in spools:
        start = 0
        with _spooled(spool.path) as batches:
            for batch in batches:
                stop = start + batch.num_rows
                cast_batch = pa.record_batch([_as_kind(batch, column) for column in whole], schema=whole)
                yield _Piece(cast_batch, None if spool.keep is None else spool.keep[start:stop])
                start = stop


def _rebatched(pieces: Iterable[_Piece]) -> Iterator[pa.RecordBatch]:
    """Gather rows into the batches that `in_batches` cuts, wherever the pieces end; leave out what does not stay."""
    import numpy as np

    gathered: list[_Piece] = []
    rows = held = 0
    for piece in pieces:
        sizes = np.cumsum(piece.batch.column(_BYTES).to_numpy())
        start = 0
        while start < piece.batch.num_rows:
            before = int(sizes[start - 1]) if start else 0
            full = int(np.searchsorted(sizes, before + _BATCH_BYTES - held)) + 1
            stop = min(full, start + _BATCH - rows, piece.batch.num_rows)
            keep = None if piece.keep is None else piece.keep[start:stop]
            gathered.append(_Piece(piece.batch.slice(start, stop - start), keep))
            rows += stop - start
            held += int(sizes[stop - 1]) - before
            start = stop
            if rows == _BATCH or held >= _BATCH_BYTES:
                yield _staying(gathered)
                gathered, rows, held = [], 0, 0
    if gathered:
        yield _staying(gathered)


def _staying(pieces: Sequence[_Piece]) -> pa.RecordBatch:
    import pyarrow as pa

    staying = [p.batch if p.keep is None else p.batch.filter(pa.array(p.keep)) for p in pieces]
    return staying[0] if len(staying) == 1 else pa.concat_batches(staying)


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Gather batches, since a row group of a thousand short rows is mostly headers."""
    group: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        group.append(batch)
        held += int(batch.column(_BYTES).to_numpy().sum())
        if held >= _ROW_GROUP_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


@contextmanager
def _spooled(spool: Path) -> Generator[Iterator[pa.RecordBatch]]:
    import pyarrow as pa

    with pa.OSFile(str(spool), "rb") as stream:
        size = stream.size()

        def batches() -> Iterator[pa.RecordBatch]:
            while stream.tell() < size:  # one stream for each batch: its columns and types are its own
                yield from pa.ipc.open_stream(stream)

        yield batches()


def _as_kind(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    """Return a batch's column as the whole file has it: absent is null, and what differs elsewhere is JSON text."""
    import pyarrow as pa

    here = batch.schema.get_field_index(field.name)
    if here < 0:
        return pa.nulls(batch.num_rows, field.type)
    array = batch.column(here)
    if _kind_of(batch.schema.field(here)) == _kind_of(field):
        return array
    return pa.array([_text(cell) for cell in array.to_pylist()], pa.string())


def _text(value: Value) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)
