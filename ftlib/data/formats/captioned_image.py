"""One image, and what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.cleaning import clean
from ftlib.data.formats.image import ImageFormat, likeness
from ftlib.data.images.likeness import measures
from ftlib.data.images.processing import pixels_of, to_uint8
from ftlib.data.inputs import INPUT_IDS, TEXT, Inputs
from ftlib.data.processor import ImageProcessor, Processor
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values, slice_values


class CaptionedImage(ImageFormat):
    """An image column and a caption column, for models that draw what a caption says.

    The source makes images of the column (`images` of `kind: files` and `huggingface`; `kind: image_folder` has them,
    and the folder's name as `label`). They are resized to what the model draws; captions are cut where its text encoder
    ends.
    """

    kind: Literal["captioned_image"] = "captioned_image"
    image: str = "image"
    """The column that holds the image."""
    caption: str = "caption"
    """The column that says what it shows."""
    background: str = Field(default="white", pattern=r"^(white|black|grey|#[0-9a-fA-F]{6})$")
    """What shows through transparent parts: white, black, grey, or #rrggbb."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "captioned_images"

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.image, self.caption, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return image and caption of a row, or why it has none. Two images are copies if their files' bytes are."""
        image, caption = self.cell(values), values.get(self.caption)
        if isinstance(image, Dropped):
            return image
        if caption is None:
            return Dropped("missing_caption")
        if not isinstance(caption, str):
            return Dropped("caption_not_a_string")
        if not (caption := clean(caption, keep_lines=False)):
            return Dropped("empty_caption")
        return Example(likeness(image), None, slice_values(values, self.slices), (image, caption))

    def inputs(self, processor: Processor) -> Inputs:
        """Return a column of tokens and one of pixels, of the size that the model draws."""
        return (*TEXT, pixels_of(processor.image_processor))

    @override
    def image_processor(self, processor: Processor) -> ImageProcessor:
        return processor.image_processor

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per image, with the tokens of its caption, cut where the model's text encoder ends."""
        return [self._encoded(example, processor) for example in examples]  # one image in memory at a time

    def _encoded(self, example: Example, processor: Processor) -> Encoded:
        image, changes = self.decoded(example)
        (pixels,) = to_uint8(processor.image_processor, [image])
        ids, cut = caption_ids(processor, example.parts[1])
        return Encoded([Piece({INPUT_IDS: ids, "pixel_values": pixels})], cut, changes, measures(image))


def caption_ids(processor: Processor, caption: str) -> tuple[list[int], bool]:
    """Return a caption's tokens as the model reads them, and whether it was cut to the tokenizer's own length."""
    tokenizer = cast(Any, processor.tokenizer)
    whole: list[int] = tokenizer(caption, verbose=False)["input_ids"]
    if len(whole) <= (most := int(tokenizer.model_max_length)):
        return whole, False
    return tokenizer(caption, truncation=True, max_length=most)["input_ids"], True
