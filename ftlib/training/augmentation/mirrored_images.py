"""Mirroring alone, by which boxes can go along."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import Fraction
from ftlib.training.augmentation.base import AugmentationBase

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8


class Mirror(AugmentationBase):
    """Left and right of an image change places, each time with the same chance, and so do those of its boxes."""

    kind: Literal["mirror"] = "mirror"
    flip: Fraction = 0.5
    """How likely it is. Not for what reads one way: writing, arrows, hands."""

    changes: ClassVar[Literal["text", "images"]] = "images"
    takes_boxes_along: ClassVar[bool] = True

    @override
    def mirrors(self, drawn: int) -> bool:
        import numpy as np

        return bool(np.random.default_rng(drawn).random() < self.flip)

    @override
    def change(self) -> Callable[[UInt8[np.ndarray, "3 height width"], int], Float[np.ndarray, "3 height width"]]:
        import numpy as np

        def change(pixels: UInt8[np.ndarray, "3 height width"], drawn: int) -> Float[np.ndarray, "3 height width"]:
            image = pixels[:, :, ::-1] if self.mirrors(drawn) else pixels
            return image.astype(np.float32)

        return change
