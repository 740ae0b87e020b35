"""Images as bytes, for tests."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def noise(width: int = 40, height: int = 24, *, seed: int = 0) -> Image.Image:
    draw = np.random.default_rng(seed)
    return Image.fromarray(draw.integers(0, 256, (height, width, 3), np.uint8))


def scene(width: int = 90, height: int = 80, *, seed: int = 0) -> Image.Image:
    """A smooth picture, as photos are: scaling and compression change it little."""
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (7, 8, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)
