"""What a format writes for a model to read: one column of a prepared split for each input of its forward pass.

The column's name is the argument's. How rows of it become a tensor follows from its kind: `Tokens` and `Marks` are
filled up to the longest row, `Numbers` and `Pixels` are stacked. `ftlib.kinds.collate` does it, with the padding of
the model's own config.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeAlias, cast

from pydantic import Field, TypeAdapter

from ftlib.config import Config
from ftlib.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

INPUT_IDS, ATTENTION_MASK, SEGMENTS = "input_ids", "attention_mask", "token_type_ids"
POSITIONS = "position_ids"
DECODER_IDS, DECODER_MASK = "decoder_input_ids", "decoder_attention_mask"

Cell: TypeAlias = "Sequence[int] | Sequence[float] | np.ndarray"
"""A row's value of one column: ids, marks, or an array of numbers."""


class Masking(Config):
    """How tokens are hidden from a model that is to say them: 80 % by the mask, 10 % by any, 10 % not at all."""

    token: int
    """The tokenizer's mask."""
    vocabulary: int = Field(gt=0)
    """Its tokens, of which any stands for one in ten."""
    rate: float
    """The probability of a word to be hidden."""


class Tokens(Config):
    """Token ids, special ones included. Rows are filled up with the `pad_token_id` of the model's config."""

    introduced: ClassVar[Mapping[str, object]] = {"masking": None}

    kind: Literal["tokens"] = "tokens"
    name: str = INPUT_IDS
    mask: str = ATTENTION_MASK
    """The input that says what is padding: 1 on tokens, 0 on padding."""
    masking: Masking | None = None
    """How some of them are hidden when they are read; the file holds them all."""

    def arrow_type(self) -> pa.DataType:
        """Return list<int32>."""
        import pyarrow as pa

        return pa.list_(pa.int32())

    def size(self, cell: Cell) -> int:
        """Return the number of tokens."""
        return len(cell)

    def plain(self, cell: Cell) -> object:
        """Return what is digested."""
        return [*cell]


class Marks(Config):
    """A whole number for each token of the row: segments. Padding is 0; only a model that takes them gets them."""

    kind: Literal["marks"] = "marks"
    name: str

    def arrow_type(self) -> pa.DataType:
        """Return list<int32>."""
        import pyarrow as pa

        return pa.list_(pa.int32())

    def size(self, cell: Cell) -> int:
        """Return 0: the tokens are counted already."""
        return 0

    def plain(self, cell: Cell) -> object:
        """Return what is digested."""
        return [*cell]


class Numbers(Config):
    """An array of float32 of one shape: features, or an image's pixels. There is no padding."""

    kind: Literal["numbers"] = "numbers"
    name: str
    shape: tuple[Annotated[int, Field(gt=0)], ...] = Field(min_length=1)
    counts: int = Field(default=1, ge=0)
    """What a row's array adds to its size: the places that the model computes for it, as an image's patches."""

    def arrow_type(self) -> pa.DataType:
        """Return fixed_size_list<float32>, the array's numbers in C order."""
        import pyarrow as pa

        return pa.list_(pa.float32(), math.prod(self.shape))

    def size(self, cell: Cell) -> int:
        """Return `counts`."""
        return self.counts

    def plain(self, cell: Cell) -> object:
        """Return what is digested: the shape, and the sha256 of the float32s in little-endian order."""
        array = self.array(cell).astype("<f4")
        return [[*self.shape], hashlib.sha256(array.tobytes()).hexdigest()]

    def array(self, cell: Cell) -> np.ndarray:
        """Return a row's array. Raises DataError for another shape, or a number that is not finite."""
        import numpy as np

        array = np.asarray(cell, np.float32)
        if array.shape != self.shape:
            raise DataError(
                f"a row's {self.name} has the shape {array.shape}, its format says {self.shape}; make the two agree"
            )
        if not np.isfinite(array).all():
            raise DataError(f"a row's {self.name} holds NaN or infinity; leave such rows out in the format's `example`")
        return array


class Pixels(Config):
    """An image of one size: 3 x height x width of uint8, red, green and blue. There is no padding.

    The split holds it resized and cropped, and not yet in the model's unit: augmentation comes between the two.
    """

    kind: Literal["pixels"] = "pixels"
    name: str = "pixel_values"
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    scale: float = 1 / 255
    """What a pixel is multiplied with before its channel's `mean` is taken off and it is divided by its `std`."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the array's dimensions: channels, height, width."""
        return (3, self.height, self.width)

    @property
    def counts(self) -> int:
        """Return what an image adds to its row's size: patches of 16 x 16, which is what most vision models read."""
        return max(1, self.height * self.width // 256)

    def arrow_type(self) -> pa.DataType:
        """Return fixed_size_list<uint8>, the pixels in C order."""
        import pyarrow as pa

        return pa.list_(pa.uint8(), math.prod(self.shape))

    def size(self, cell: Cell) -> int:
        """Return `counts`."""
        return self.counts

    def plain(self, cell: Cell) -> object:
        """Return what is digested: the shape, and the sha256 of the pixels in C order."""
        return [[*self.shape], hashlib.sha256(self.array(cell).tobytes()).hexdigest()]

    def array(self, cell: Cell) -> np.ndarray:
        """Return a row's pixels. Raises DataError for another shape or type."""
        import numpy as np

        pixels = np.asarray(cell)
        if pixels.shape != self.shape or pixels.dtype != np.uint8:
            raise DataError(
                f"a row's {self.name} is {pixels.dtype} of the shape {pixels.shape}, its format says uint8 of "
                f"{self.shape}; make the two agree"
            )
        return pixels


Input = Annotated[Tokens | Marks | Numbers | Pixels, Field(discriminator="kind")]
Inputs = tuple[Input, ...]
"""All that a format writes for the model, in the order of the columns."""

TEXT: Inputs = (Tokens(),)
"""One sequence of tokens, as most formats write: `input_ids`, and so `attention_mask`."""

TEXT_TO_TEXT: Inputs = (Tokens(), Tokens(name=DECODER_IDS, mask=DECODER_MASK))
"""What an encoder reads, and what a decoder writes, behind the token that it begins with."""

_INPUTS: TypeAdapter[Inputs] = TypeAdapter(Inputs)


def answer_input(names: Container[str]) -> str:
    """Return which of a row's inputs a language model predicts tokens of: its decoder's, where it has one apart."""
    return DECODER_IDS if DECODER_IDS in names else INPUT_IDS


def answer_mask(names: Container[str]) -> str:
    """Return which of a row's inputs says what of `answer_input` is padding."""
    return DECODER_MASK if DECODER_IDS in names else ATTENTION_MASK


def row_size(inputs: Inputs, cells: Mapping[str, Cell]) -> int:
    """Return what a row costs: batches are built by it, and budgets count it. For texts, all their tokens."""
    return sum(column.size(cells[column.name]) for column in inputs)


def plain_cells(inputs: Inputs, cells: Mapping[str, Cell]) -> list[object]:
    """Return a row's inputs as they are digested, in the order of the columns."""
    return [column.plain(cells[column.name]) for column in inputs]


def token_columns(inputs: Inputs) -> list[Tokens]:
    """Return the columns that hold ids."""
    return [column for column in inputs if isinstance(column, Tokens)]


def to_metadata(inputs: Inputs) -> dict[str, str]:
    """Return what a split's schema says of its inputs: nothing for `TEXT`, as in splits from before there was more."""
    return {} if inputs == TEXT else {"inputs": _INPUTS.dump_json(inputs, exclude_none=True).decode()}


def from_metadata(metadata: Mapping[bytes, bytes] | None) -> Inputs:
    """Return the inputs of a split by its schema's metadata."""
    layout = (metadata or {}).get(b"inputs")
    return TEXT if layout is None else _INPUTS.validate_json(layout)


def fixed_bytes(inputs: Inputs) -> int:
    """Return what a row of numbers and pixels takes in memory, whatever they are; what else there is grows with it."""
    return sum(
        math.prod(column.shape) * (1 if isinstance(column, Pixels) else 4)
        for column in inputs
        if isinstance(column, Numbers | Pixels)
    )


def arrow_column(column: Input, cells: Sequence[Cell]) -> pa.Array:
    """Return a record batch's column. Raises DataError for numbers of another shape."""
    import numpy as np
    import pyarrow as pa

    if isinstance(column, Numbers | Pixels):
        flat = [column.array(cell).ravel() for cell in cells]
        empty = np.zeros(0, np.uint8 if isinstance(column, Pixels) else np.float32)
        values = pa.array(np.concatenate(flat) if flat else empty)
        return pa.FixedSizeListArray.from_arrays(values, math.prod(column.shape))
    return pa.array(cast("list[object]", [*cells]), column.arrow_type())
