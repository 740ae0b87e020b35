"""One image, one label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.formats.image import ImageFormat, column_of, likeness
from ftlib.data.formats.labeled_text import label_name
from ftlib.data.identity import identity
from ftlib.data.images.likeness import measures
from ftlib.data.images.processing import for_pixels, to_uint8
from ftlib.data.inputs import Inputs
from ftlib.data.processor import ImageProcessor, Processor
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values, slice_values


class LabeledImage(ImageFormat):
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
    names_labels: ClassVar[bool] = True
    stratifies: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.image, self.label, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return image and label of a row, or why it has none. Two images are copies if their files' bytes are one."""
        image, label = self.cell(values), label_name(values.get(self.label))
        if isinstance(image, Dropped):
            return image
        if isinstance(label, Dropped):
            return label
        return Example(likeness(image), identity(label), slice_values(values, self.slices), (image,), label)

    def inputs(self, processor: Processor) -> Inputs:
        """Return one column of pixels, of the size and in the unit that the model's image processor says.

        Raises ModelError for a processor that does something else, RecipeError for one that cannot be set to `pixels`.
        """
        return column_of(self.image_processor(processor), self.pixels)

    def image_processor(self, processor: Processor) -> ImageProcessor:
        """Return the model's image processor, set to `pixels`; what a model that was trained so is published with."""
        return for_pixels(processor.image_processor, self.pixels)

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per image, whose cell is its example's one part: all that answering a file needs."""
        resizing = self.image_processor(processor)
        return [self._encoded(example, resizing) for example in examples]  # one image in memory at a time

    def _encoded(self, example: Example, resizing: ImageProcessor) -> Encoded:
        image, changes = self.decoded(example)
        (pixels,) = to_uint8(resizing, [image])
        return Encoded([Piece({"pixel_values": pixels}, example.target)], changes=changes, measures=measures(image))

    @override
    def snippet_words(self) -> Mapping[str, str]:
        return {"background": self.background}
