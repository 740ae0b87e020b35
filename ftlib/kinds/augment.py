"""How a row is changed each time it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8


@dataclass(frozen=True)
class Augment:
    """Changes rows, given their places in their split."""

    change: Callable[[UInt8[np.ndarray, "3 height width"], int], Float[np.ndarray, "3 height width"]]
    """A function of pixels and a seed: uint8 to float32, from 0 to 255 as well."""
    to_mirror: Callable[[int], bool]
    """Whether boxes go to the other side with the pixels, by the same seed."""
    drawn: Callable[[int], int]
    """Return the seed of a row."""

    def __call__(self, row: int, pixels: UInt8[np.ndarray, "3 height width"]) -> Float[np.ndarray, "3 height width"]:
        """Return one row's pixels, changed."""
        return self.change(pixels, self.drawn(row))

    def mirrors(self, row: int) -> bool:
        """Say whether one row's boxes change sides."""
        return self.to_mirror(self.drawn(row))
