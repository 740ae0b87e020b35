"""The rows of an ingested dataset: one parquet file, written in two passes and read in batches, never held whole.

A column is text, integers, floats or truth values if all its values are. A column of mixed or nested values is kept
as JSON text, marked in the schema, and comes back as it was: ingestion loses and converts nothing, and a format says
what it has no use for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from ftlib.rows import ROW_ID, Checked, Value

if TYPE_CHECKING:
    import pyarrow as pa

ColumnKind = Literal["string", "int64", "double", "bool", "json"]

_JSON = {b"reglage": b"json"}
_BATCH = 1000
_ROW_GROUP_BYTES = 8 << 20
_KINDS: dict[type, ColumnKind] = {str: "string", int: "int64", float: "double", bool: "bool"}


class Snapshot(NamedTuple):
    """What was written."""

    rows: int
    columns: tuple[str, ...]
    content: str
    """sha256 over the ids of the rows in order."""


def write_snapshot(path: Path, rows: Iterable[Checked]) -> Snapshot:
    """Write rows to a parquet file. Memory is bounded by the batch; a temporary file beside `path` holds the rows.

    A column's type is known only after the last row, so the first pass spools every batch with the types it has by
    itself, and the second casts whole columns.
    """
    import pyarrow as pa

    spool = path.with_suffix(".spool")
    content, count = hashlib.sha256(), 0
    kinds: dict[str, set[ColumnKind]] = {}
    pending = iter(rows)
    try:
        with pa.OSFile(str(spool), "wb") as stream:
            while batch := list(islice(pending, _BATCH)):
                count += len(batch)
                content.update("".join([row.row_id for row in batch]).encode())
                table = _typed_batch(batch)
                for field in table.schema:
                    kinds.setdefault(field.name, set()).add(_kind_of(field))
                with pa.ipc.new_stream(stream, table.schema) as writer:
                    writer.write_batch(table)
        kinds.pop(ROW_ID, None)
        resolved: dict[str, ColumnKind] = {name: _resolve(kinds[name]) for name in sorted(kinds)}
        _write_parquet(path, spool, resolved)
    finally:
        spool.unlink(missing_ok=True)
    return Snapshot(count, tuple(resolved), content.hexdigest())


def read_snapshot(path: Path) -> Iterator[tuple[str, dict[str, Value]]]:
    """Yield (row id, values without nulls) in order."""
    from pyarrow import parquet

    with parquet.ParquetFile(path) as table:
        nested = {field.name for field in table.schema_arrow if field.metadata == _JSON}
        for batch in table.iter_batches(batch_size=_BATCH, use_threads=False):
            for cells in batch.to_pylist():
                row_id = cells.pop(ROW_ID)
                yield (
                    row_id,
                    {
                        name: json.loads(cell) if name in nested else cell
                        for name, cell in cells.items()
                        if cell is not None
                    },
                )


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

    arrays: list[Any] = [pa.array([row.row_id for row in rows], pa.string())]
    fields = [pa.field(ROW_ID, pa.string())]
    values = [row.values for row in rows]
    for name in dict.fromkeys(name for row in values for name in row):
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


def _write_parquet(path: Path, spool: Path, kinds: dict[str, ColumnKind]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([pa.field(ROW_ID, pa.string()), *(_field(name, kind) for name, kind in kinds.items())])
    with _spooled(spool) as batches, parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in _row_groups(batches, schema):
            writer.write_table(pa.Table.from_batches(group, schema))


def _row_groups(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[list[pa.RecordBatch]]:
    """Gather batches, since a row group of a thousand short rows is mostly headers."""
    import pyarrow as pa

    group: list[pa.RecordBatch] = []
    held = 0
    for batch in batches:
        group.append(pa.record_batch([_as_kind(batch, field) for field in schema], schema=schema))
        held += batch.nbytes
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
