"""The hidden tokens of a text."""

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
    from jaxtyping import Int


@dataclass(frozen=True, kw_only=True)
class MaskedOutcomes(Outcomes):
    """What a masked language model said of what was hidden: `nll` sums over a row's `targets`, its hidden tokens."""

    kind: ClassVar[BatchKind] = "masked"

    right: Int[np.ndarray, " rows"]
    """Of the row's hidden tokens, those that were the model's most probable ones."""

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        return {"right": pa.array(self.right, pa.int64())}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> MaskedOutcomes:
        return cls(**common, right=table["right"].to_numpy())
