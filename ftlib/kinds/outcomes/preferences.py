"""Two answers to a prompt, of which one is preferred."""

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
    from jaxtyping import Float, Int

_ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class PreferenceOutcomes(Outcomes):
    """How likely a language model finds both answers; `nll` and `targets` are the chosen one's."""

    kind: ClassVar[BatchKind] = "preferences"
    diverges_by = "token"

    rejected_nll: Float[np.ndarray, " rows"]
    rejected_targets: Int[np.ndarray, " rows"]
    reference: Float[np.ndarray, "rows 2"] | None
    """Log-probabilities of both answers, chosen first, by the frozen model that rewards are measured against; None
    where the evaluation names none."""

    @property
    @override
    def answer_tokens(self) -> Int[np.ndarray, " rows"]:
        return self.targets + self.rejected_targets

    def log_ratio(self, *, per_token: bool = False) -> Float[np.ndarray, " rows"]:
        """Return log p(chosen) - log p(rejected) in nats, each divided by its tokens if `per_token`."""
        chosen, rejected = -self.nll, -self.rejected_nll
        if per_token:
            chosen, rejected = chosen / self.targets, rejected / self.rejected_targets
        return chosen - rejected

    def rewards(self) -> Float[np.ndarray, "rows 2"]:
        """Return each answer's `implicit_rewards`, chosen first. Raises DataError where there is no reference."""
        import numpy as np

        return implicit_rewards(-np.stack([self.nll, self.rejected_nll], axis=1), self.reference)

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        columns = {
            "rejected_nll": pa.array(self.rejected_nll, pa.float64()),
            "rejected_targets": pa.array(self.rejected_targets, pa.int64()),
        }
        if self.reference is not None:
            named = zip(_ANSWERS, self.reference.T, strict=True)
            columns |= {f"reference_{name}": pa.array(column, pa.float64()) for name, column in named}
        return columns

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> PreferenceOutcomes:
        import numpy as np

        names = [f"reference_{name}" for name in _ANSWERS]
        known = {*names} <= {*table.column_names}
        return cls(
            **common,
            rejected_nll=table["rejected_nll"].to_numpy(),
            rejected_targets=table["rejected_targets"].to_numpy(),
            reference=np.stack([table[name].to_numpy() for name in names], axis=1) if known else None,
        )
