"""How well noise is told from an image, for each image."""

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
class DenoisedOutcomes(Outcomes):
    """A denoiser's answers at a few amounts of noise; `nll` is their mean: a squared error, and no likelihood."""

    kind: ClassVar[BatchKind] = "captioned_images"
    has_distribution: ClassVar[bool] = False

    little: Float[np.ndarray, " rows"]
    """Mean squared error over the half of the timesteps that leave most of the image."""
    much: Float[np.ndarray, " rows"]
    """The same over the half that leaves little of it."""

    @override
    def columns(self) -> dict[str, pa.Array]:
        import pyarrow as pa

        return {"little": pa.array(self.little, pa.float64()), "much": pa.array(self.much, pa.float64())}

    @classmethod
    @override
    def read(cls, table: pa.Table, header: Mapping[str, Any], common: Mapping[str, Any]) -> DenoisedOutcomes:
        return cls(**common, little=table["little"].to_numpy(), much=table["much"].to_numpy())
