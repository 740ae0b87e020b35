"""Random crops, mirroring, colours and holes, by kornia."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator
from typing_extensions import override

from ftlib.config import Fraction
from ftlib.errors import RecipeError
from ftlib.training.augmentation.base import AugmentationBase

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8

_ERASED = 0.5
"""What a hole is filled with: grey."""


def _range(scale: tuple[float, float]) -> tuple[float, float]:
    """Refuse a range that is none. Raises ValueError."""
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"got {list(scale)}, allowed are two shares of the area, above 0, the smaller one first")
    return scale


class ImageAugmentation(AugmentationBase):
    """Each training image, each time anew: cropped and resized, mirrored, re-coloured, with a hole, in this order.

    In pixels from 0 to 1, before the model's normalisation. Crop and resize as in Szegedy et al. 2015
    (arXiv 1409.4842), holes as in Zhong et al. 2017 (arXiv 1708.04896).
    """

    kind: Literal["images"] = "images"
    crop_scale: Annotated[tuple[Fraction, Fraction], AfterValidator(_range)] | None = (0.8, 1.0)
    """The least and the largest share of an image's area that is cut out, with sides of 3:4 to 4:3 of each other's, and
    resized to the whole; null: never."""
    flip: Fraction = 0.5
    """How likely left and right change places. 0 for what reads one way: writing, arrows, hands."""
    colour: Fraction = 0.0
    """By how much brightness, contrast and saturation change at most, as a share; the hue by a quarter of it, of the
    whole circle."""
    erase: Fraction = 0.0
    """How likely a rectangle of 2 to 33 % of the area becomes grey."""

    changes: ClassVar[Literal["text", "images"]] = "images"
    package: ClassVar[str | None] = "kornia"

    @override
    def change(self) -> Callable[[UInt8[np.ndarray, "3 height width"], int], Float[np.ndarray, "3 height width"]]:
        """Return what runs kornia's steps on one image, drawn from a seed alone: uint8 in, float32 from 0 to 255 out.

        Raises RecipeError where kornia is not installed.
        """
        if importlib.util.find_spec("kornia") is None:
            raise RecipeError(
                "phases[].augmentation needs kornia, which is not installed: pip install 'reglage[images]'"
            )
        import torch

        steps: dict[tuple[int, int], Any] = {}

        def change(pixels: UInt8[np.ndarray, "3 height width"], seed: int) -> Float[np.ndarray, "3 height width"]:
            size = (pixels.shape[1], pixels.shape[2])
            if size not in steps:
                steps[size] = self._steps(size)
            # kornia draws from torch's global generator, which dropout draws from as well.
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(seed)
                image = torch.tensor(pixels, dtype=torch.float32)[None] / 255
                for step in steps[size]:
                    image = step(image)
            return (image[0].clamp(0, 1) * 255).numpy()

        return change

    def _steps(self, size: tuple[int, int]) -> list[Any]:
        """Return kornia's modules. One image at a time: what a row becomes must not depend on the rows beside it."""
        import kornia.augmentation as kornia

        steps: list[Any] = []
        if self.crop_scale is not None:
            steps.append(kornia.RandomResizedCrop(size, scale=self.crop_scale, ratio=(3 / 4, 4 / 3)))
        if self.flip:
            steps.append(kornia.RandomHorizontalFlip(p=self.flip))
        if self.colour:
            most = self.colour
            steps.append(kornia.ColorJitter(most, most, most, most / 4))
        if self.erase:
            steps.append(kornia.RandomErasing(scale=(0.02, 0.33), value=_ERASED, p=self.erase))
        return steps
