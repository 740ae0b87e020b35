"""Small real images for the evidence: scikit-learn's handwritten digits, and letters of many fonts.

Digits are 1,797 of 8 x 8 pixels (UCI's optical recognition set). Letters are A to J in 22 fonts that matplotlib brings,
turned and moved a little, drawn by Pillow at the same size. Everything is a function of its seed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int

SIDE = 8
"""Pixels of a side."""
LABELS = tuple("0123456789")
LETTERS = "ABCDEFGHIJ"
FONTS = (
    *(f"DejaVuSans{one}" for one in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{one}" for one in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{one}" for one in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{one}" for one in ("", "Bol", "Italic", "BolIta")),
    *(f"cm{one}10" for one in ("b", "mi", "r", "ss", "ti", "tt")),
)
_DRAWN = 64
"""Pixels of a side at which a letter is drawn before it is made small."""


def digits() -> tuple[Float[np.ndarray, "rows 8 8"], Int[np.ndarray, " rows"]]:
    """Return all digits, from 0 to 1, and what they are."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return np.asarray(found.images) / 16, np.asarray(found.target)


def letters(of_each: int, seed: int) -> tuple[Float[np.ndarray, "rows 8 8"], Int[np.ndarray, " rows"]]:
    """Return so many of each of ten letters, light on dark as the digits are, from 0 to 1; 0 is an A."""
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    draws = np.random.default_rng(seed)
    folder = Path(get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(folder / f"{name}.ttf", 54) for name in FONTS]
    images, labels = list[Any](), list[int]()
    for number in range(of_each * len(LETTERS)):
        label = number % len(LETTERS)
        drawn = Image.new("L", (_DRAWN, _DRAWN))
        at = tuple(_DRAWN / 2 + draws.uniform(-4, 4, size=2))
        font = fonts[int(draws.integers(len(fonts)))]
        ImageDraw.Draw(drawn).text(at, LETTERS[label], fill=255, font=font, anchor="mm")
        turned = drawn.rotate(float(draws.uniform(-12, 12)), resample=Image.Resampling.BILINEAR)
        images.append(np.asarray(turned.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64) / 255)
        labels.append(label)
    return np.stack(images) / np.stack(images).max(axis=(1, 2), keepdims=True), np.array(labels)


def permuted(images: Float[np.ndarray, "rows 8 8"], task: int) -> Float[np.ndarray, "rows 8 8"]:
    """Return the images with their pixels in an order of the task's own; task 0 leaves them as they are."""
    flat = images.reshape(len(images), -1)
    order = np.random.default_rng(1000 + task).permutation(flat.shape[1]) if task else np.arange(flat.shape[1])
    return flat[:, order].reshape(images.shape)
