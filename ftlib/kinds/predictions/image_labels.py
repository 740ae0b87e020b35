"""The most probable label of an image file."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from ftlib.data.images.cells import to_cell
from ftlib.data.images.decoding import decode
from ftlib.data.rows import Example
from ftlib.errors import DataError
from ftlib.kinds.predictions.base import Asked
from ftlib.kinds.predictions.labels import LabelPrediction, LabelPredictor

_BYTES = 8
"""Of a pixel, at most: red, green, blue and alpha of 16 bits each, not compressed."""


class ImageLabelPrediction(LabelPrediction):
    """The most probable label of one image."""

    file: str

    @override
    def line(self) -> str:
        return f"{self.file}\t{super().line()}"


class ImageLabelPredictor(LabelPredictor):
    """As of a text; what is asked is a file's path."""

    reads_files: ClassVar[bool] = True

    @override
    def example(self, text: str, *, keep_lines: bool) -> Example:
        """Return the image in a file. Raises DataError for one that cannot be read or decoded within the limits."""
        path, most = Path(text), _BYTES * self.limits.image_pixels
        try:
            if (size := path.stat().st_size) > most:
                raise DataError(f"has {size:,} bytes, an image of {self.limits.image_pixels:,} pixels has {most:,}")
            data = path.read_bytes()
        except (OSError, ValueError) as error:  # the second for a name with a NUL
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise DataError(f"cannot be read: {reason}; give the path of an image") from error
        decode(data, pixels=self.limits.image_pixels)
        return Example(text, parts=(to_cell(data),))

    @override
    def prediction(self, asked: Asked) -> ImageLabelPrediction:
        return ImageLabelPrediction(file=asked.example.text, **super().prediction(asked).model_dump())
