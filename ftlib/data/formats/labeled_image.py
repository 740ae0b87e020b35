"""One image, one label."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.formats.base import FormatBase
from ftlib.data.formats.labeled_text import label_name
from ftlib.data.identity import identity
from ftlib.data.images.cells import from_cell, is_cell
from ftlib.data.images.decoding import decode
from ftlib.data.images.likeness import Sight, measures, sight
from ftlib.data.images.processing import for_pixels, pixels_of, to_uint8
from ftlib.data.inputs import Inputs
from ftlib.data.processor import ImageProcessor, Processor
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values, slice_values
from ftlib.errors import RecipeError

_ANY_SIZE = 1 << 40
"""Pixels: ingestion has counted them, by the dataset's own limit."""


class LabeledImage(FormatBase):
    """An image column and a label column, for image classification.

    The source makes images of the column (`kind: image_folder`, or `images` of `kind: files` and `huggingface`). The
    model's own image processor resizes, crops and normalises.
    """

    kind: Literal["labeled_image"] = "labeled_image"
    image: str = "image"
    """The column that holds the image."""
    label: str = "label"
    """The column that holds the label: a string, a whole number or a truth value."""
    background: str = Field(default="white", pattern=r"^(white|black|grey|#[0-9a-fA-F]{6})$")
    """What shows through transparent parts: white, black, grey, or #rrggbb."""
    pixels: int | None = Field(default=None, ge=8, le=4096)
    """Width and height that the model reads, if not those of its own image processor; published with the model."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "labeled_images"
    keeps_lines: ClassVar[bool] = False
    names_labels: ClassVar[bool] = True
    stratifies: ClassVar[bool] = True
    shows_images: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.image, self.label, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return image and label of a row, or why it has none. Two images are copies if their files' bytes are one."""
        image, label = values.get(self.image), label_name(values.get(self.label))
        if image is None:
            return Dropped("missing_image")
        if not isinstance(image, str) or not is_cell(image):
            return Dropped("image_not_ingested")
        if isinstance(label, Dropped):
            return label
        copy = f"sha256:{hashlib.sha256(from_cell(image)).hexdigest()}"
        return Example(copy, identity(label), slice_values(values, self.slices), (image,), label)

    def inputs(self, processor: Processor) -> Inputs:
        """Return one column of pixels, of the size and in the unit that the model's image processor says.

        Raises ModelError for a processor that does something else, RecipeError for one that cannot be set to `pixels`.
        """
        column = pixels_of(self.image_processor(processor))
        if self.pixels is not None and column.shape != (3, self.pixels, self.pixels):
            raise RecipeError(
                f"pixels: {self.pixels}, but the model's image processor set to it gives {column.height} x "
                f"{column.width}; leave pixels out"
            )
        return (column,)

    def image_processor(self, processor: Processor) -> ImageProcessor:
        """Return the model's image processor, set to `pixels`; what a model that was trained so is published with."""
        return for_pixels(processor.image_processor, self.pixels)

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per image, whose cell is its example's one part: all that answering a file needs."""
        resizing = self.image_processor(processor)
        return [self._encoded(example, resizing) for example in examples]  # one image in memory at a time

    def _encoded(self, example: Example, resizing: ImageProcessor) -> Encoded:
        image, changes = decode(from_cell(example.parts[0]), self.background, _ANY_SIZE)
        (pixels,) = to_uint8(resizing, [image])
        return Encoded([Piece({"pixel_values": pixels}, example.target)], changes=changes, measures=measures(image))

    def measures(self, example: Example) -> Mapping[str, int]:
        """Return size, brightness and colour of an image, in steps: what is watched for drift."""
        return measures(decode(from_cell(example.parts[0]), self.background, _ANY_SIZE).image)

    def sight(self, example: Example) -> Sight:
        """Return what an image looks like, by which near copies are found."""
        return sight(decode(from_cell(example.parts[0]), self.background, _ANY_SIZE).image)

    @override
    def snippet_words(self) -> Mapping[str, str]:
        return {"background": self.background}
