"""Mean entropy of the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import LabelOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class Entropy(MeanOverRows):
    """How undecided the model is, in nats, whatever the rows' labels say: it can choose alpha where there are none.

    AdaWiSE's criterion. A model that is wrong with confidence scores well, so the target's `log_loss`, which needs no
    label from the shifted rows either, is the safer choice.
    """

    kind: Literal["entropy"] = "entropy"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"labeled"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: LabelOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np
        from scipy.special import entr

        return entr(outcomes.probabilities.astype(np.float64)).sum(axis=1)
