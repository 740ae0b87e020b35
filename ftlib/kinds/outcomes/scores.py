"""One number per row."""

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
    from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class ScoreOutcomes(Outcomes):
    """A regression's answers; `nll` is a normal distribution's with variance 1: half the squared error, + 0.919."""

    kind: ClassVar[BatchKind] = "scored"
    shown_as = frozenset({"regression"})

    gold: Float[np.ndarray, " rows"]
    predicted: Float[np.ndarray, " rows"]

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        return {"gold": pa.array(self.gold, pa.float64()), "predicted": pa.array(self.predicted, pa.float64())}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> ScoreOutcomes:
        return cls(**common, gold=table["gold"].to_numpy(), predicted=table["predicted"].to_numpy())
