"""How far a denoiser is off on images that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import DenoisedOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class DenoisingLoss(MeanOverRows):
    """Mean squared error of what is said of noisy images, over four amounts of noise, unweighed.

    Noise and timesteps of a row are the same for every candidate, so differences are of the weights alone.
    """

    kind: Literal["denoising_loss"] = "denoising_loss"

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"captioned_images"})
    higher_is_better: ClassVar[bool] = False

    def per_row(self, outcomes: DenoisedOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        return outcomes.nll
