"""What the formats whose rows are images have in common."""

from __future__ import annotations

import hashlib
from abc import ABC
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from ftlib.data.formats.base import FormatBase
from ftlib.data.images.cells import from_cell, is_cell
from ftlib.data.images.decoding import Decoded, decode
from ftlib.data.images.likeness import Sight, measures, sight
from ftlib.data.images.processing import pixels_of
from ftlib.data.inputs import Inputs
from ftlib.data.processor import ImageProcessor
from ftlib.data.rows import Dropped, Example, Values
from ftlib.errors import RecipeError

_ANY_SIZE = 1 << 40
"""Pixels: ingestion has counted them, by the dataset's own limit."""


class ImageFormat(FormatBase, ABC):
    """A format whose examples have an image's cell as their first part."""

    if TYPE_CHECKING:  # fields of each, which stand where its users look for them
        image: str
        background: str

    keeps_lines: ClassVar[bool] = False
    shows_images: ClassVar[bool] = True

    def cell(self, values: Values) -> str | Dropped:
        """Return the image of a row, or why it has none."""
        image = values.get(self.image)
        if image is None:
            return Dropped("missing_image")
        return image if isinstance(image, str) and is_cell(image) else Dropped("image_not_ingested")

    def decoded(self, example: Example) -> Decoded:
        """Return an example's image, upright and without transparent parts."""
        return decode(from_cell(example.parts[0]), self.background, _ANY_SIZE)

    @override
    def measures(self, example: Example) -> Mapping[str, int]:
        """Return size, brightness and colour of an image, in steps: what is watched for drift."""
        return measures(self.decoded(example).image)

    @override
    def sight(self, example: Example) -> Sight:
        """Return what an image looks like, by which near copies are found."""
        return sight(self.decoded(example).image)


def likeness(cell: str) -> str:
    """Return what makes two images copies: their files' bytes."""
    return f"sha256:{hashlib.sha256(from_cell(cell)).hexdigest()}"


def column_of(sized: ImageProcessor, pixels: int | None) -> Inputs:
    """Return one column of pixels, of the size and in the unit that an image processor says that was set to `pixels`.

    Raises ModelError for one that does something else, RecipeError for one that cannot be set so.
    """
    column = pixels_of(sized)
    if pixels is not None and column.shape != (3, pixels, pixels):
        raise RecipeError(
            f"pixels: {pixels}, but the model's image processor set to it gives {column.height} x {column.width}; "
            "leave pixels out"
        )
    return (column,)
