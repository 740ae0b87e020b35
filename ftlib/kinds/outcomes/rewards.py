"""What a policy gives an answer more than a frozen model does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

_ROUNDING = 1e-6
"""Of a log-probability: the reference's is kept in float32."""


def implicit_rewards(
    log_probs: Float[np.ndarray, " *answers"], reference: Float[np.ndarray, " *answers"] | None
) -> Float[np.ndarray, " *answers"]:
    """Return log p - log p(reference) of each answer, in nats; 0 where that is what rounding makes of none.

    DPO's and KTO's implicit reward at a beta of 1. Raises DataError where there is no reference.
    """
    import numpy as np

    if reference is None:
        raise DataError(
            "these outcomes hold no reference, and rewards are measured against one; give the evaluation "
            "`reference: {phase: base}`"
        )
    rewards = log_probs - reference
    return np.where(abs(rewards) > _ROUNDING * np.maximum(1, abs(reference)), rewards, 0.0)
