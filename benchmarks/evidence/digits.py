"""Small real images for the evidence: scikit-learn's handwritten digits, letters of many fonts, and what is made of them.

Digits are 1,797 of 8 x 8 pixels (UCI's optical recognition set). Letters are A to J in 22 fonts that matplotlib brings,
turned and moved a little, drawn by Pillow at the same size. Everything is a function of its seed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftlib.merging.files import scratch_beside

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

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, SIDE, SIDE) / 16, labels


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


def sides(rows: int, shares: Sequence[float], seed: int) -> list[str]:
    """Return each row's side: train, validation or test, by these shares."""
    counts = [round(share * rows) for share in shares[1:]]
    names = ["train"] * (rows - sum(counts)) + ["validation"] * counts[0] + ["test"] * counts[1]
    return [names[at] for at in np.random.default_rng(seed).permutation(rows)]


def write_rows(
    folder: Path, images: Float[np.ndarray, "rows 8 8"], labels: Sequence[str], split: Sequence[str]
) -> Path:
    """Write rows.jsonl (image, label, split) with the PNG files that it names, whole or not at all; return the folder.

    What is there already is left: the folder's name is to say what is in it.
    """
    if folder.exists():
        return folder
    from PIL import Image

    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(folder) as scratch:
        made = scratch / folder.name
        (made / "png").mkdir(parents=True)
        lines = list[str]()
        for at, (image, label, side) in enumerate(zip(images, labels, split, strict=True)):
            name = f"png/{at:05}.png"
            Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)).save(made / name)
            lines.append(json.dumps({"image": name, "label": label, "split": side}))
        (made / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        made.rename(folder)
    return folder


def write_model(folder: Path, seed: int, *, hidden: int = 64, layers: int = 2, patch: int = SIDE) -> Path:
    """Write a ViT of random weights for ten labels that sees the image as `SIDE / patch` squared pieces; return it.

    One piece makes it a residual network of plain layers, to which the order of the pixels means nothing.
    """
    if folder.exists():
        return folder
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    from ftlib.models.quiet import quiet

    config = ViTConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden,
        image_size=SIDE,
        patch_size=patch,
        hidden_dropout_prob=0.0,
        id2label=dict(enumerate(LABELS)),
        label2id={label: at for at, label in enumerate(LABELS)},
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(folder) as scratch, torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        ViTForImageClassification(config).save_pretrained(made := scratch / folder.name)
        ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(made)
        made.rename(folder)
    return folder


def files(folder: Path) -> dict[str, object]:
    """Return a dataset of a recipe: the rows that `write_rows` wrote, as they are."""
    return {
        "source": {"kind": "files", "path": str(folder / "rows.jsonl"), "images": ["image"]},
        "format": {"kind": "labeled_image", "image": "image", "label": "label"},
        "split": {"by": "given", "column": "split"},
        "cleaning": {"deduplicate": False},
    }
