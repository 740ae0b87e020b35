"""Every next token of a text."""

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
class TokenOutcomes(Outcomes):
    """A language model's answers: `nll` sums over a row's `targets`, which are `target_bytes` long."""

    kind: ClassVar[BatchKind] = "tokens"
    diverges_by = "token"

    target_bytes: Int[np.ndarray, " rows"]
    """Bytes of UTF-8 that the targets spell."""

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        return {"target_bytes": pa.array(self.target_bytes, pa.int64())}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> TokenOutcomes:
        return cls(**common, target_bytes=table["target_bytes"].to_numpy())
