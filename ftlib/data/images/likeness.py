"""What an image looks like, in few bytes: a difference hash with a mean colour, and the measures watched for drift.

The difference hash (dHash) says of a 9 x 8 grid of grey, whose cells are means over their part of the image, which
cells are brighter than their left neighbour: 64 bits that scaling, compression and a change of brightness hardly move.
A flat image has no bits set whatever its colour is, so the mean colour has to agree too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from ftlib.data.profile import length_bin

if TYPE_CHECKING:
    from PIL import Image

BITS = 64
_STEPS = 32
"""Into which a brightness of 0 to 255 is cut for a profile."""


class Sight(NamedTuple):
    """What an image looks like."""

    bits: int
    colour: tuple[int, int, int]
    """The mean of red, green and blue, 0 to 255."""


def sight(image: Image.Image) -> Sight:
    """Return the difference hash and the mean colour of an image in 8-bit RGB."""
    import numpy as np
    from PIL import Image as pillow

    small = image.resize((9, 8), pillow.Resampling.BOX)
    grey = np.asarray(small.convert("L")).astype(np.int16)
    bits = (grey[:, 1:] > grey[:, :-1]).ravel()
    red, green, blue = (round(float(mean)) for mean in np.asarray(small).reshape(-1, 3).mean(axis=0))
    return Sight(int.from_bytes(np.packbits(bits).tobytes(), "big"), (red, green, blue))


def measures(image: Image.Image) -> Mapping[str, int]:
    """Return what a profile counts of an image in 8-bit RGB, each as a bin.

    size            the geometric mean of width and height, eight bins for each doubling
    brightness      the mean of its pixels, in 32 steps
    colour          how far the channels of a pixel are apart, in the mean, in 32 steps: 0 is grey
    """
    import numpy as np
    from PIL import Image as pillow

    small = np.asarray(image.resize((16, 16), pillow.Resampling.BOX)).astype(np.float64)
    step = 256 / _STEPS
    apart = small.max(axis=-1) - small.min(axis=-1)
    return {
        "size": length_bin(round(math.sqrt(image.width * image.height))),
        "brightness": int(small.mean() / step),
        "colour": int(apart.mean() / step),
    }
