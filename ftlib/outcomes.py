"""The per-example table: what a model said about every row. Every metric, interval and slice is a function of it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlib.errors import StorageError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int

SLICE = "slice:"


def _no_rows() -> Int[np.ndarray, " rows"]:
    import numpy as np

    return np.zeros(0, np.int64)


@dataclass(frozen=True)
class Outcomes:
    """One model on one split, rows in the split's order.

    Language modelling has no `gold`, `predicted` and `probabilities`: they are empty, and `nll` sums over a row's
    `targets`, which are `target_bytes` long.
    """

    row_ids: tuple[str, ...]
    nll: Float[np.ndarray, " rows"]
    """Negative log-likelihood of the row's targets, in nats."""
    targets: Int[np.ndarray, " rows"]
    """Terms in `nll`: 1 for a label, else the row's predicted tokens."""
    labels: tuple[str, ...]
    """The model's labels; `gold` and `predicted` are positions in it."""
    gold: Int[np.ndarray, " rows"]
    predicted: Int[np.ndarray, " rows"]
    probabilities: Float[np.ndarray, "rows labels"]
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Each slice column's value per row."""
    target_bytes: Int[np.ndarray, " rows"] = field(default_factory=_no_rows)
    """Bytes of UTF-8 that the targets spell; empty where they are labels."""

    def __len__(self) -> int:
        return len(self.row_ids)

    def take(self, rows: Int[np.ndarray, " some"]) -> Outcomes:
        """Return these rows, which may repeat: a slice, or a bootstrap resample."""
        labeled = bool(self.labels)
        return Outcomes(
            row_ids=tuple(self.row_ids[i] for i in rows),
            nll=self.nll[rows],
            targets=self.targets[rows],
            labels=self.labels,
            gold=self.gold[rows] if labeled else self.gold,
            predicted=self.predicted[rows] if labeled else self.predicted,
            probabilities=self.probabilities[rows] if labeled else self.probabilities,
            slices={name: tuple(values[i] for i in rows) for name, values in self.slices.items()},
            target_bytes=self.target_bytes if labeled else self.target_bytes[rows],
        )

    def to_parquet(self) -> bytes:
        """Return the table as Parquet: row_id, nll, targets, `slice:<name>`.

        And gold, predicted, probabilities for labels, target_bytes for language modelling.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {"row_id": pa.array(self.row_ids, pa.string())}
        if self.labels:
            names = pa.array(self.labels, pa.string())
            columns["gold"] = pa.DictionaryArray.from_arrays(pa.array(self.gold, pa.int32()), names)
            columns["predicted"] = pa.DictionaryArray.from_arrays(pa.array(self.predicted, pa.int32()), names)
            flat = pa.array(self.probabilities.reshape(-1), pa.float32())
            columns["probabilities"] = pa.FixedSizeListArray.from_arrays(flat, len(self.labels))
        columns["nll"] = pa.array(self.nll, pa.float64())
        columns["targets"] = pa.array(self.targets, pa.int64())
        if not self.labels:
            columns["target_bytes"] = pa.array(self.target_bytes, pa.int64())
        columns |= {SLICE + name: pa.array(values, pa.string()) for name, values in self.slices.items()}
        table = pa.table(columns).replace_schema_metadata({"labels": json.dumps(self.labels)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()


def read_outcomes(path: Path) -> Outcomes:
    """Read a table that `to_parquet` wrote. Raises StorageError if it is gone or damaged."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
        labels: tuple[str, ...] = tuple(json.loads((table.schema.metadata or {})[b"labels"]))
        rows = table.num_rows
        empty = np.zeros(0, np.int64)
        flat = table["probabilities"].combine_chunks().flatten().to_numpy() if labels else np.zeros(0, np.float32)
        return Outcomes(
            row_ids=tuple(table["row_id"].to_pylist()),
            nll=table["nll"].to_numpy(),
            targets=table["targets"].to_numpy(),
            labels=labels,
            gold=_positions(table["gold"], labels) if labels else empty,
            predicted=_positions(table["predicted"], labels) if labels else empty,
            probabilities=flat.reshape(rows, len(labels)) if labels else flat.reshape(0, 0),
            slices={
                name.removeprefix(SLICE): tuple(table[name].to_pylist())
                for name in table.column_names
                if name.startswith(SLICE)
            },
            target_bytes=empty if labels else table["target_bytes"].to_numpy(),
        )
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(
            f"{path} is not a table of outcomes ({type(error).__name__}); delete it and the `evaluate` folder under "
            "the work folder's stages/, and run again"
        ) from error


def _positions(column: Any, labels: tuple[str, ...]) -> Int[np.ndarray, " rows"]:
    import numpy as np

    position = {label: i for i, label in enumerate(labels)}
    return np.array([position[value] for value in column.to_pylist()], np.int64)
