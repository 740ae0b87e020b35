"""The files of a prepared split: Arrow IPC *file* format, so that a reader maps it into memory instead of loading it.

Columns: `row_id` string, `input_ids` list<int32> (special tokens included, no padding), `supervised` int32 (terms of
the row's loss), `target` of the kind's own type (for `tokens` there is none), and one string column `slice:<name>` per
slice of the format. The schema's metadata names the kind. An absent split is a file without rows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftlib.config import BatchKind, Split
from ftlib.data.row_targets import Target

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SLICE = "slice:"
_OWN = ("row_id", "input_ids", "supervised", "target")


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row of a prepared split."""

    row_id: str
    input_ids: Sequence[int]
    target: Target = None
    slices: tuple[str, ...] = ()
    """Values in the order of the format's `slices`."""
    supervised: int = 1


def split_file(folder: Path, split: Split) -> Path:
    """Return where a prepared dataset keeps a split."""
    return folder / f"{split}.arrow"


def split_schema(kind: BatchKind, slices: Sequence[str] = ()) -> pa.Schema:
    """Return the columns of a split."""
    import pyarrow as pa

    columns = [
        pa.field("row_id", pa.string()),
        pa.field("input_ids", pa.list_(pa.int32())),
        pa.field("supervised", pa.int32()),
    ]
    if (target := _target_type(kind)) is not None:
        columns.append(pa.field("target", target))
    return pa.schema([*columns, *(pa.field(SLICE + name, pa.string()) for name in slices)], {"kind": kind})


def longest_prompt(path: Path) -> int:
    """Return the most tokens that stand before a row's supervised ones."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    lengths = (chunk.value_lengths().to_numpy() for chunk in table["input_ids"].chunks)
    supervised = (chunk.to_numpy() for chunk in table["supervised"].chunks)
    return max((int((a - b).max()) for a, b in zip(lengths, supervised, strict=True) if len(a)), default=0)


def _target_type(kind: BatchKind) -> pa.DataType | None:
    import pyarrow as pa

    match kind:
        case "labeled" | "completions":
            return pa.string()
        case "tagged":
            return pa.list_(pa.string())
        case "spans":
            texts, numbers = pa.list_(pa.string()), pa.list_(pa.int32())
            place, answers = {"start": pa.int32(), "end": pa.int32()}, {"answers": texts, "optional": pa.bool_()}
            return pa.struct({**place, **answers, "spelt": texts, "segments": numbers})
        case "tokens":
            return None
        case "multi_labeled":
            return pa.list_(pa.string())
        case "scored":
            return pa.float64()


class SplitWriter:
    """Appends batches of rows to one split's file; memory is bounded by the batch."""

    def __init__(self, file: pa.ipc.RecordBatchFileWriter, schema: pa.Schema) -> None:
        self._file = file
        self._schema = schema

    def write(self, rows: Sequence[TokenRow]) -> None:
        """Append rows as one record batch."""
        import pyarrow as pa

        if not rows:
            return
        columns: list[object] = [[getattr(row, name) for row in rows] for name in _OWN if name in self._schema.names]
        columns += zip(*(row.slices for row in rows), strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self._file.write_batch(pa.record_batch(arrays, schema=self._schema))


@contextmanager
def open_split(path: Path, kind: BatchKind, slices: Sequence[str] = ()) -> Generator[SplitWriter]:
    """Write a split; the file is whole only after the block has ended without an error."""
    import pyarrow as pa

    schema = split_schema(kind, slices)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        yield SplitWriter(file, schema)


def write_split(path: Path, kind: BatchKind, rows: Iterable[TokenRow], slices: Sequence[str] = ()) -> None:
    """Write all rows of a split."""
    with open_split(path, kind, slices) as writer:
        writer.write(list(rows))
