"""The rows of an ingested dataset: one parquet file, written in two passes and read in batches, never held whole.

A column is text, integers, floats or truth values if all its values are. A column of mixed or nested values is kept
as JSON text, marked in the schema, and comes back as it was: ingestion loses and converts nothing, and a format says
what it has no use for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, NamedTuple

from ftlib.rows import ROW_ID, Checked, Value

if TYPE_CHECKING:
    import pyarrow as pa

ColumnKind = Literal["string", "int64", "double", "bool", "json"]

_JSON = {b"reglage": b"json"}
_BATCH = 1000


class Snapshot(NamedTuple):
    """What was written."""

    rows: int
    columns: tuple[str, ...]
    content: str
    """sha256 over the ids of the rows in order."""


def write_snapshot(path: Path, rows: Iterable[Checked]) -> Snapshot:
    """Write rows to a parquet file. Memory is bounded by the batch; a temporary file beside `path` holds the rows."""
    spool = path.with_suffix(".spool")
    content, count = hashlib.sha256(), 0
    kinds: dict[str, set[ColumnKind]] = {}
    try:
        with spool.open("wb") as stream:
            for row in rows:
                count += 1
                content.update(row.row_id.encode())
                stream.write(f"{row.row_id}{row.canonical}\n".encode())
                for name, value in row.values.items():
                    kinds.setdefault(name, set()).add(_kind(value))
        resolved: dict[str, ColumnKind] = {name: _resolve(kinds[name]) for name in sorted(kinds)}
        with spool.open("rb") as stream:
            _write_parquet(path, stream, resolved)
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


def _kind(value: Value) -> ColumnKind:
    if isinstance(value, bool):  # before int: a truth value is one in Python
        return "bool"
    if isinstance(value, str):
        return "string"
    if isinstance(value, int):
        return "int64" if -(2**63) <= value < 2**63 else "json"
    return "double" if isinstance(value, float) else "json"


def _resolve(kinds: set[ColumnKind]) -> ColumnKind:
    return next(iter(kinds)) if len(kinds) == 1 else "json"


def _write_parquet(path: Path, spool: IO[bytes], kinds: dict[str, ColumnKind]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    fields = [pa.field(ROW_ID, pa.string())]
    for name, kind in kinds.items():
        fields.append(pa.field(name, pa.string() if kind == "json" else pa.type_for_alias(kind), metadata=_meta(kind)))
    schema = pa.schema(fields)
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while lines := list(islice(spool, _BATCH)):
            writer.write_batch(_batch(lines, kinds, schema))


def _batch(lines: Sequence[bytes], kinds: dict[str, ColumnKind], schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    rows: list[dict[str, Value]] = [json.loads(line[32:]) for line in lines]
    columns: list[list[Value]] = [[line[:32].decode() for line in lines]]
    for name, kind in kinds.items():
        cells = [row.get(name) for row in rows]
        columns.append([_text(cell) for cell in cells] if kind == "json" else cells)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _text(value: Value) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _meta(kind: ColumnKind) -> dict[bytes, bytes] | None:
    return _JSON if kind == "json" else None
