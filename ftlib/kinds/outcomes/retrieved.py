"""Where among all texts of a split each row's own was found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.outcomes.base import Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float, Int

SCALE = 20.0
"""What cosines are multiplied with before a softmax, as sentence-transformers does."""
_ANCHORS = 1024  # compared with the corpus at a time


@dataclass(frozen=True, kw_only=True)
class RetrievalOutcomes(Outcomes):
    """Vectors of anchors and positives, of which `by_example` makes ranks and likelihoods in the split's corpus.

    The corpus is every positive of the split, each text once. Other positives of the same anchor are left out of its
    ranking: they are no mistakes.
    """

    kind: ClassVar[BatchKind] = "retrieved"
    has_distribution: ClassVar[bool] = False

    rank: Int[np.ndarray, " rows"]
    """The place of the row's positive, counted from 1; equal cosines stand before it. 0: not ranked yet."""
    vectors: Float[np.ndarray, "rows 2 width"] | None = None
    """Of anchor and positive, until they are ranked."""
    keys: Int[np.ndarray, "rows 2"] | None = None
    """Which text each is."""

    @override
    def by_example(self) -> RetrievalOutcomes:
        """Return the split's table with each row ranked, and without vectors."""
        import numpy as np

        if self.vectors is None or self.keys is None or not len(self):
            return replace(self, vectors=None, keys=None)
        _, firsts, own = np.unique(self.keys[:, 1], return_index=True, return_inverse=True)
        corpus = self.vectors[firsts, 1].astype(np.float64)
        found_by: dict[int, set[int]] = {}
        for anchor, text in zip(self.keys[:, 0].tolist(), own.tolist(), strict=True):
            found_by.setdefault(anchor, set()).add(text)
        rank, nll = np.zeros(len(self), np.int64), np.zeros(len(self), np.float64)
        for start in range(0, len(self), _ANCHORS):
            rows = np.arange(start, min(start + _ANCHORS, len(self)))
            cosines = self.vectors[rows, 0].astype(np.float64) @ corpus.T
            for row, near in zip(rows.tolist(), cosines, strict=True):
                near[[*(found_by[int(self.keys[row, 0])] - {int(own[row])})]] = -np.inf
                rank[row] = (near >= near[own[row]]).sum()
                high = SCALE * near.max()
                nll[row] = high + np.log(np.exp(SCALE * near - high).sum()) - SCALE * near[own[row]]
        return replace(self, rank=rank, nll=nll, vectors=None, keys=None)

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        ranks = {"rank": pa.array(self.rank, pa.int64())}
        if self.vectors is None or self.keys is None:
            return ranks
        return {
            **ranks,
            "vectors": pa.FixedSizeListArray.from_arrays(
                pa.array(self.vectors.ravel(), pa.float32()), 2 * self.vectors.shape[2]
            ),
            "keys": pa.FixedSizeListArray.from_arrays(pa.array(self.keys.ravel(), pa.int64()), 2),
        }

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> RetrievalOutcomes:
        lists = {name: table[name].combine_chunks() for name in ("vectors", "keys") if name in table.column_names}
        flat = {name: column.flatten().to_numpy() for name, column in lists.items()}
        shapes = {"vectors": (len(table), 2, -1), "keys": (len(table), 2)}
        arrays = {name: values.reshape(shapes[name]) for name, values in flat.items()}
        return cls(**common, rank=table["rank"].to_numpy(), **arrays)
