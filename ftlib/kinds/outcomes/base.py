"""What the tables of all kinds have in common."""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from ftlib.config import BatchKind

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float, Int

SLICE = "slice:"
Shown = Literal["calibration", "regression", "confusion", "contact_sheet", "boxes", "labels", "thresholds", "questions"]
"""Figures and tables of the report that are made of outcomes."""
OF_ALL_ROWS = {"column": False}
"""Metadata of a field that is no column: it holds for the whole table."""


@dataclass(frozen=True, kw_only=True)
class Outcomes(ABC):
    """One model on one split, rows in the split's order. Each kind of batch has a table of its own."""

    kind: ClassVar[BatchKind]
    shown_as: ClassVar[frozenset[Shown]] = frozenset()
    """What the page shows of such a table beside its metrics."""
    diverges_by: ClassVar[Literal["row", "token"] | None] = None
    """Per what one model's distance from another's answers (KL) is told; None where it is not."""

    has_distribution: ClassVar[bool] = True
    """Whether a model gives its answers as a distribution that one can be drawn from, as Fisher information needs."""

    has_places: ClassVar[bool] = False
    """Whether targets are places in an image, which would have to move with its pixels."""
    families: ClassVar[tuple[str, ...]] = ()
    """The `model_type` of configs that alone are taught and asked so; none: any that transformers has a class for."""

    row_ids: tuple[str, ...]
    nll: Float[np.ndarray, " rows"]
    """Negative log-likelihood of the row's targets, in nats."""
    targets: Int[np.ndarray, " rows"]
    """Terms in `nll`: 1 for a label, else the row's supervised tokens."""
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Each slice column's value per row."""

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def answer_tokens(self) -> Int[np.ndarray, " rows"]:
        """Each row's tokens over which a divergence per token is summed: its targets, where it has one answer."""
        return self.targets

    def take(self, rows: Int[np.ndarray, " some"]) -> Outcomes:
        """Return these rows, which may repeat: a slice, or a bootstrap resample."""
        return replace(self, **{name: _taken(getattr(self, name), rows) for name in _columns(self)})

    def by_example(self) -> Outcomes:
        """Return the whole split's table with one row per example, where its format cuts long ones into several."""
        return self

    @abstractmethod
    def columns(self) -> dict[str, pa.Array]:
        """Return the kind's own columns, as they are written."""

    def header(self) -> dict[str, object]:
        """Return what holds for all rows, as JSON."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> Outcomes:
        """Return what `columns` and `header` wrote; `common` are the fields of this class."""

    def to_parquet(self) -> bytes:
        """Return the table as Parquet: row_id, the kind's own columns, nll, targets, `slice:<name>`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {
            "row_id": pa.array(self.row_ids, pa.string()),
            **self.columns(),
            "nll": pa.array(self.nll, pa.float64()),
            "targets": pa.array(self.targets, pa.int64()),
            **{SLICE + name: pa.array(values, pa.string()) for name, values in self.slices.items()},
        }
        about = {"kind": self.kind, "header": json.dumps(self.header())}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns).replace_schema_metadata(about), buffer, compression="zstd")
        return buffer.getvalue()


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """Return the rows of several tables of one model, one after another."""
    first = parts[0]
    return replace(first, **{name: _joined([getattr(part, name) for part in parts]) for name in _columns(first)})


def _columns(table: Outcomes) -> list[str]:
    return [f.name for f in fields(table) if f.metadata.get("column", True)]


def _joined(values: Sequence[Any]) -> Any:
    if values[0] is None:  # a column that no part has
        return None
    if isinstance(values[0], tuple):
        return tuple(chain.from_iterable(values))
    if isinstance(values[0], Mapping):
        names = cast("Mapping[str, Any]", values[0])
        return {name: _joined([part[name] for part in values]) for name in names}
    import numpy as np

    return np.concatenate(values)


def _taken(values: Any, rows: Int[np.ndarray, " some"]) -> Any:
    """Return these rows of a column: an array, a tuple, a mapping of columns, or nothing where there is none."""
    if values is None:
        return None
    if isinstance(values, tuple):
        column = cast("tuple[object, ...]", values)
        return tuple(column[i] for i in rows)
    if isinstance(values, Mapping):
        return {name: _taken(column, rows) for name, column in cast("Mapping[str, Any]", values).items()}
    return values[rows]
