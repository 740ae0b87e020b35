"""The files of a prepared split: Arrow IPC *file* format, so that a reader maps it into memory instead of loading it.

Columns: `row_id` string, then the model's inputs by name (`ftlib.data.inputs`; for text `input_ids` list<int32>,
special tokens included, no padding), `supervised` int32 (terms of the row's loss), `target` of the kind's own type (for
`tokens` there is none), and one string column `slice:<name>` per slice of the format. A column `score:<name>` holds
numbers that a frozen model gave each row; batches carry them. A column `prompt` holds what was asked, as text, for who
reads a model's answers (`ftlib.stages.quote`). The schema's metadata names the kind and, where they are
not one text, the inputs. An absent split is a file without rows.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftlib.config import BatchKind, Split
from ftlib.data.inputs import TEXT, Cell, Inputs, answer_input, arrow_column, from_metadata, to_metadata
from ftlib.data.row_targets import Target

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SLICE = "slice:"
SCORE = "score:"
PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """One row of a prepared split."""

    row_id: str
    inputs: Mapping[str, Cell]
    """By the names of the format's inputs."""
    target: Target = None
    slices: tuple[str, ...] = ()
    """Values in the order of the format's `slices`."""
    supervised: int = 1


def split_file(folder: Path, split: Split) -> Path:
    """Return where a prepared dataset keeps a split."""
    return folder / f"{split}.arrow"


def split_schema(kind: BatchKind, slices: Sequence[str] = (), inputs: Inputs = TEXT) -> pa.Schema:
    """Return the columns of a split."""
    import pyarrow as pa

    columns = [
        pa.field("row_id", pa.string()),
        *(pa.field(column.name, column.arrow_type()) for column in inputs),
        pa.field("supervised", pa.int32()),
    ]
    if (target := _target_type(kind)) is not None:
        columns.append(pa.field("target", target))
    columns += [pa.field(SLICE + name, pa.string()) for name in slices]
    return pa.schema(columns, {"kind": kind, **to_metadata(inputs)})


def inputs_in(path: Path) -> Inputs:
    """Return what a split's rows hold for the model."""
    import pyarrow as pa

    return from_metadata(pa.ipc.open_file(pa.memory_map(str(path))).schema.metadata)


def longest_prompt(path: Path) -> int:
    """Return the most tokens that stand before a row's supervised ones; of a chat, before its last answer.

    Where a decoder writes, that is the one that it begins with.
    """
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if "target" in table.column_names and pa.types.is_struct(table["target"].type):
        return max((turns["places"][-2] for turns in table["target"].to_pylist() if turns["places"]), default=0)
    lengths = (chunk.value_lengths().to_numpy() for chunk in table[answer_input(table.column_names)].chunks)
    supervised = (chunk.to_numpy() for chunk in table["supervised"].chunks)
    return max((int((a - b).max()) for a, b in zip(lengths, supervised, strict=True) if len(a)), default=0)


def _target_type(kind: BatchKind) -> pa.DataType | None:
    """Return Arrow's type of the targets that a kind of batch has; None where it has none."""
    import pyarrow as pa

    match kind:
        case "labeled" | "labeled_images" | "completions" | "text_to_text":
            return pa.string()
        case "tagged" | "multi_labeled":
            return pa.list_(pa.string())
        case "spans":
            texts, numbers = pa.list_(pa.string()), pa.list_(pa.int32())
            bounds, answers = {"start": pa.int32(), "end": pa.int32()}, {"answers": texts, "optional": pa.bool_()}
            return pa.struct({**bounds, **answers, "spelt": texts, "segments": numbers})
        case "chats" | "preferences" | "judged":
            text = pa.string()
            told = {
                "chats": {"answer": text},
                "preferences": {"chosen": text, "rejected": text},
                "judged": {"wanted": pa.bool_(), "answer": text},
            }[kind]
            return pa.struct({"places": pa.list_(pa.int32()), **told, "end": pa.int32()})
        case "tokens" | "captioned_images":
            return None
        case "compared":
            return pa.struct({"border": pa.int32(), "margin": pa.float64()})
        case "boxed_images":
            lists = {"labels": pa.string(), "boxes": pa.float64(), "crowd": pa.bool_()}
            size = {"width": pa.int32(), "height": pa.int32()}
            return pa.struct({**{name: pa.list_(item) for name, item in lists.items()}, **size})
        case "masked" | "retrieved":
            return pa.list_(pa.int32())
        case "scored":
            return pa.float64()


class SplitWriter:
    """Appends batches of rows to one split's file; memory is bounded by the batch."""

    def __init__(self, file: pa.ipc.RecordBatchStreamWriter, schema: pa.Schema, inputs: Inputs) -> None:
        self._file = file
        self._schema = schema
        self._inputs = inputs

    def write(self, rows: Sequence[PreparedRow]) -> None:
        """Append rows as one record batch. Raises DataError for an input of another shape than the format says."""
        import pyarrow as pa

        if not rows:
            return
        inputs = [arrow_column(column, [row.inputs[column.name] for row in rows]) for column in self._inputs]
        columns: list[object] = [[row.supervised for row in rows]]
        if "target" in self._schema.names:
            columns.append([row.target for row in rows])
        columns += zip(*(row.slices for row in rows), strict=True)
        fields = [*self._schema][1 + len(inputs) :]
        others = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
        ids = pa.array([row.row_id for row in rows], pa.string())
        self._file.write_batch(pa.record_batch([ids, *inputs, *others], schema=self._schema))

    def append(self, stream: Path) -> None:
        """Append the record batches of a file in Arrow's stream format."""
        import pyarrow as pa

        with pa.OSFile(str(stream), "rb") as source:
            for batch in pa.ipc.open_stream(source):
                self._file.write_batch(batch)


@contextmanager
def split_writer(
    path: Path, kind: BatchKind, slices: Sequence[str] = (), inputs: Inputs = TEXT
) -> Generator[SplitWriter]:
    """Write a split; the file is whole only after the block has ended without an error."""
    import pyarrow as pa

    schema = split_schema(kind, slices, inputs)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        yield SplitWriter(file, schema, inputs)


def write_split(
    path: Path, kind: BatchKind, rows: Iterable[PreparedRow], slices: Sequence[str] = (), inputs: Inputs = TEXT
) -> None:
    """Write all rows of a split."""
    with split_writer(path, kind, slices, inputs) as writer:
        writer.write(list(rows))


def add_scores(source: Path, target: Path, name: str, scores: Float[np.ndarray, " *rows"]) -> None:
    """Copy a split with a column more, `score:<name>`: a number for each row, or as many for each."""
    import pyarrow as pa

    column = pa.array(scores.reshape(-1), pa.float32())
    if scores.ndim > 1:
        column = pa.FixedSizeListArray.from_arrays(column, scores.shape[1])
    _add_column(source, target, SCORE + name, column)


def add_prompts(source: Path, target: Path, prompts: Sequence[str]) -> None:
    """Copy a split with a column more, `prompt`: each row's prompt as it was asked, as text."""
    import pyarrow as pa

    _add_column(source, target, PROMPT, pa.array(prompts, pa.string()))


def _add_column(source: Path, target: Path, name: str, column: pa.Array) -> None:
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(source))).read_all()
    metadata = table.schema.metadata
    more = table.append_column(name, column).replace_schema_metadata(metadata)
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, more.schema) as file:
        file.write_table(more)
