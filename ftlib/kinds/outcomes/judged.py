"""An answer to a prompt, and whether it is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.outcomes.base import Outcomes
from ftlib.kinds.outcomes.rewards import implicit_rewards

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Bool, Float


@dataclass(frozen=True, kw_only=True)
class JudgedOutcomes(Outcomes):
    """How likely a language model finds answers; `nll` and `targets` are the answer's, wanted or not."""

    kind: ClassVar[BatchKind] = "judged"
    diverges_by = "token"

    wanted: Bool[np.ndarray, " rows"]
    reference: Float[np.ndarray, " rows"] | None
    """Log-probabilities by the frozen model that rewards are measured against; None where the evaluation names none."""

    def rewards(self) -> Float[np.ndarray, " rows"]:
        """Return each answer's `implicit_rewards`. Raises DataError where there is no reference."""
        return implicit_rewards(-self.nll, self.reference)

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        columns: dict[str, pa.Array] = {"wanted": pa.array(self.wanted, pa.bool_())}
        if self.reference is not None:
            columns["reference"] = pa.array(self.reference, pa.float64())
        return columns

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> JudgedOutcomes:
        reference = table["reference"].to_numpy() if "reference" in table.column_names else None
        return cls(**common, wanted=table["wanted"].to_numpy(), reference=reference)
