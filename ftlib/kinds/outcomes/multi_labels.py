"""Any number of labels per row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.outcomes.base import OF_ALL_ROWS, Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float

THRESHOLD = 0.5
"""A label is predicted from this probability on."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelOutcomes(Outcomes):
    """A multi-label classifier's answers: `nll` sums over the labels, each of which is a term of its own."""

    kind: ClassVar[BatchKind] = "multi_labeled"
    shown_as = frozenset({"calibration", "labels", "thresholds"})

    labels: tuple[str, ...] = field(metadata=OF_ALL_ROWS)
    """The model's labels, in the order of the columns below."""
    gold: Bool[np.ndarray, "rows labels"]
    probabilities: Float[np.ndarray, "rows labels"]

    @cached_property
    def predicted(self) -> Bool[np.ndarray, "rows labels"]:
        """Return which labels the model holds at least as probable as not."""
        return self.probabilities >= THRESHOLD

    def columns(self) -> dict[str, pa.Array]:
        """Return gold and predicted as lists of names, and the probabilities in the labels' order."""
        import pyarrow as pa

        flat = pa.array(self.probabilities.reshape(-1), pa.float32())
        return {
            "gold": _names(self.gold, self.labels),
            "predicted": _names(self.predicted, self.labels),
            "probabilities": pa.FixedSizeListArray.from_arrays(flat, len(self.labels)),
        }

    @override
    def header(self) -> dict[str, object]:
        return {"labels": self.labels}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> MultiLabelOutcomes:
        import numpy as np

        labels: tuple[str, ...] = tuple(header["labels"])
        flat = table["probabilities"].combine_chunks().flatten().to_numpy()
        gold = [[label in row for label in labels] for row in map(set, table["gold"].to_pylist())]
        return cls(
            **common,
            labels=labels,
            gold=np.array(gold, np.bool_).reshape(table.num_rows, len(labels)),
            probabilities=flat.reshape(table.num_rows, len(labels)),
        )


def _names(matrix: Bool[np.ndarray, "rows labels"], labels: tuple[str, ...]) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    starts = np.concatenate([[0], matrix.sum(axis=1).cumsum()])
    names = pa.array(labels, pa.string()).take(pa.array(np.nonzero(matrix)[1]))
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), names)
