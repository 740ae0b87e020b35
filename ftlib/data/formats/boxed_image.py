"""One image, and what lies where in it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.data.formats.image import ImageFormat, column_of, likeness
from ftlib.data.formats.labeled_text import label_name
from ftlib.data.images.likeness import measures
from ftlib.data.images.processing import crops, for_pixels, to_uint8
from ftlib.data.inputs import Inputs
from ftlib.data.processor import ImageProcessor, Processor
from ftlib.data.row_targets import Boxes
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Value, Values, slice_values
from ftlib.errors import RecipeError

_KEYS = {"label", "box", "crowd"}
_OVER = 0.01
"""By which share of the image's side a box may reach over its edge: annotators round. It is cut there."""


class BoxedImage(ImageFormat):
    """An image column and a column of boxes, for object detection.

    A cell of boxes is a list, or its JSON, of `{"label": "cat", "box": [left, top, width, height]}`; the empty list is
    an image without any. `"crowd": true` marks a box around many, which is neither learnt nor counted as missed. The
    image is resized to one square, whatever its sides are, and the boxes with it.
    """

    kind: Literal["boxed_image"] = "boxed_image"
    image: str = "image"
    """The column that holds the image."""
    boxes: str = "boxes"
    """The column that holds the boxes."""
    unit: Literal["pixels", "shares"] = "pixels"
    """What numbers of a box count: pixels of the image as viewers show it, or shares of its width and height."""
    most_boxes: int = Field(default=100, ge=1, le=1000)
    """Of an image; one with more is dropped, since a model says no more than it has queries."""
    background: str = Field(default="white", pattern=r"^(white|black|grey|#[0-9a-fA-F]{6})$")
    """What shows through transparent parts: white, black, grey, or #rrggbb."""
    pixels: int | None = Field(default=None, ge=8, le=4096)
    """Width and height that the model reads, if not those of its own image processor; published with the model."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "boxed_images"
    names_labels: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.image, self.boxes, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return image and boxes of a row, or why it has none. Two images are copies if their files' bytes are one."""
        image = self.cell(values)
        if isinstance(image, Dropped):
            return image
        found = _listed(values.get(self.boxes))
        if isinstance(found, Dropped):
            return found
        if len(found) > self.most_boxes:
            return Dropped("too_many_boxes", f"{len(found)}, at most {self.most_boxes}: most_boxes")
        read = [_read(one) for one in found]
        if bad := next((one for one in read if isinstance(one, Dropped)), None):
            return bad
        boxes = [one for one in read if not isinstance(one, Dropped)]
        if self.unit == "shares" and (outside := next(filter(_outside, (box for _, box, _ in boxes)), None)):
            return Dropped("box_outside", f"{outside}, of an image from 0 to 1")
        spelt = json.dumps([[box, crowd] for _, box, crowd in boxes])
        labels = tuple(label for label, _, _ in boxes)
        return Example(likeness(image), None, slice_values(values, self.slices), (image, spelt), labels)

    def inputs(self, processor: Processor) -> Inputs:
        """Return one column of pixels, of the size and in the unit that the model's image processor says.

        Raises ModelError for a processor that does something else, RecipeError for one that crops, as boxes would be
        cut, or that cannot be set to `pixels`.
        """
        sized = self.image_processor(processor)
        if crops(sized):
            raise RecipeError(
                "format boxed_image: the model's image processor crops, and boxes would be cut; set do_center_crop to "
                "false in its preprocessor_config.json"
            )
        return column_of(sized, self.pixels)

    def image_processor(self, processor: Processor) -> ImageProcessor:
        """Return the model's image processor, set to `pixels`; what a model that was trained so is published with."""
        return for_pixels(processor.image_processor, self.pixels)

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per image; boxes become shares of its sides. One that reaches out of its image is dropped.

        An example of one part alone, as a file that is asked about, has no boxes.
        """
        resizing = self.image_processor(processor)
        return [self._encoded(example, resizing) for example in examples]  # one image in memory at a time

    def _encoded(self, example: Example, resizing: ImageProcessor) -> Encoded:
        """Encode one image, with its boxes as shares of its sides."""
        image, changes = self.decoded(example)
        width, height = image.size
        told: list[tuple[list[float], bool]] = json.loads(example.parts[1]) if len(example.parts) > 1 else []
        sides = (width, height) if self.unit == "pixels" else (1, 1)
        boxes = [[value / sides[i % 2] for i, value in enumerate(box)] for box, _ in told]
        for (given, _), box in zip(told, boxes, strict=True):
            if _outside(box):
                return Encoded([], dropped=Dropped("box_outside", f"{given}, of an image of {width} x {height}"))
        (pixels,) = to_uint8(resizing, [image])
        target = Boxes(
            labels=[str(label) for label in cast("tuple[str, ...]", example.target or ())],
            boxes=[value for box in boxes for value in _cut(box)],
            crowd=[crowd for _, crowd in told],
            width=width,
            height=height,
        )
        return Encoded([Piece({"pixel_values": pixels}, target)], changes=changes, measures=measures(image))

    @override
    def snippet_words(self) -> Mapping[str, str]:
        return {"background": self.background}


def _listed(value: Value) -> list[Any] | Dropped:
    """Return the boxes of a cell, each still unread."""
    if value is None:
        return Dropped("missing_boxes")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return Dropped("boxes_not_a_list", f"{value[:40]!r}")
    if not isinstance(value, list):
        return Dropped("boxes_not_a_list", f"{str(value)[:40]!r}")
    return cast("list[Any]", value)


def _read(one: Any) -> tuple[str, list[float], bool] | Dropped:
    """Return label, left, top, width and height of a box, and whether it is a crowd's; or what it lacks."""
    if not isinstance(one, dict):
        return Dropped("odd_box", f"{str(one)[:60]!r} is no object of label and box")
    given = cast("dict[str, Any]", one)
    if stray := sorted(given.keys() - _KEYS):
        return Dropped("odd_box", f"unknown key {stray[0][:40]!r}, allowed are box, crowd, label")
    label, box, crowd = label_name(given.get("label")), given.get("box"), given.get("crowd")
    if isinstance(label, Dropped):
        return label
    if crowd not in (None, True, False):
        return Dropped("odd_box", f"crowd is {str(crowd)[:40]!r}, allowed are true and false")
    numbers = cast("list[Any]", box if isinstance(box, list) else [])
    if len(numbers) != 4 or not all(_is_number(value) for value in numbers):
        return Dropped("box_not_numbers", f"{str(box)[:60]!r}, needed are left, top, width and height")
    if numbers[2] <= 0 or numbers[3] <= 0:
        return Dropped("box_without_area", f"{numbers}")
    return label, [float(value) for value in numbers], bool(crowd)


def _is_number(value: Any) -> bool:
    # JSON's integers have no end: one beyond the largest float is no coordinate, either.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _outside(box: Sequence[float]) -> bool:
    """Say whether a box, in shares, reaches further out of its image than annotators round."""
    left, top, width, height = box
    out = max(-left, -top, left + width - 1, top + height - 1) > _OVER
    return out or left >= 1 or top >= 1 or left + width <= 0 or top + height <= 0


def _cut(box: Sequence[float]) -> list[float]:
    left, top, width, height = box
    ours = max(left, 0.0), max(top, 0.0)
    return [*ours, min(left + width, 1.0) - ours[0], min(top + height, 1.0) - ours[1]]
