"""The scores of two texts, of which one is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.outcomes.base import Outcomes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, kw_only=True)
class ComparedOutcomes(Outcomes):
    """A reward model's scores; `nll` is -log sigma(chosen - rejected), Bradley & Terry's, without a margin.

    It reads as a classifier's table of two labels too: which text is better, where the first one always is.
    """

    kind: ClassVar[BatchKind] = "compared"
    shown_as = frozenset({"calibration"})
    labels: ClassVar[tuple[str, ...]] = ("chosen", "rejected")

    chosen: Float[np.ndarray, " rows"]
    """The score of the text that is better."""
    rejected: Float[np.ndarray, " rows"]
    margin: Float[np.ndarray, " rows"]
    """By how much it is better, as the rows say; 0 where they do not."""

    @property
    def right(self) -> Bool[np.ndarray, " rows"]:
        """Which rows' better text scores higher; of equal scores neither does."""
        return self.chosen > self.rejected

    @property
    def gold(self) -> Int[np.ndarray, " rows"]:
        """Which text is better, by its place in `labels`."""
        import numpy as np

        return np.zeros(len(self), np.int64)

    @property
    def predicted(self) -> Int[np.ndarray, " rows"]:
        """Which text scores higher."""
        import numpy as np

        return np.where(self.right, 0, 1)

    @property
    def probabilities(self) -> Float[np.ndarray, "rows 2"]:
        """How probable the model holds each text to be the better one."""
        import numpy as np

        first = np.exp(-self.nll)
        return np.stack([first, 1 - first], axis=1)

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        arrays = {"chosen": self.chosen, "rejected": self.rejected, "margin": self.margin}
        return {name: pa.array(array, pa.float64()) for name, array in arrays.items()}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> ComparedOutcomes:
        return cls(**common, **{name: table[name].to_numpy() for name in ("chosen", "rejected", "margin")})
