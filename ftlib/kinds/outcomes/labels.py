"""One label per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.outcomes.base import OF_ALL_ROWS, Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float, Int


@dataclass(frozen=True, kw_only=True)
class LabelOutcomes(Outcomes):
    """A classifier's answers."""

    kind: ClassVar[BatchKind] = "labeled"
    shown_as = frozenset({"calibration", "confusion", "contact_sheet", "labels"})
    diverges_by = "row"

    labels: tuple[str, ...] = field(metadata=OF_ALL_ROWS)
    """The model's labels; `gold` and `predicted` are positions in it."""
    gold: Int[np.ndarray, " rows"]
    predicted: Int[np.ndarray, " rows"]
    probabilities: Float[np.ndarray, "rows labels"]

    def columns(self) -> dict[str, pa.Array]:
        """Return gold and predicted by name, and the probabilities in the labels' order."""
        import pyarrow as pa

        names = pa.array(self.labels, pa.string())
        flat = pa.array(self.probabilities.reshape(-1), pa.float32())
        return {
            "gold": pa.DictionaryArray.from_arrays(pa.array(self.gold, pa.int32()), names),
            "predicted": pa.DictionaryArray.from_arrays(pa.array(self.predicted, pa.int32()), names),
            "probabilities": pa.FixedSizeListArray.from_arrays(flat, len(self.labels)),
        }

    @override
    def header(self) -> dict[str, object]:
        return {"labels": self.labels}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> LabelOutcomes:
        labels: tuple[str, ...] = tuple(header["labels"])
        flat = table["probabilities"].combine_chunks().flatten().to_numpy()
        return cls(
            **common,
            labels=labels,
            gold=_positions(table["gold"], labels),
            predicted=_positions(table["predicted"], labels),
            probabilities=flat.reshape(table.num_rows, len(labels)),
        )


def _positions(column: Any, labels: tuple[str, ...]) -> Int[np.ndarray, " rows"]:
    import numpy as np

    position = {label: i for i, label in enumerate(labels)}
    return np.array([position[value] for value in column.to_pylist()], np.int64)
