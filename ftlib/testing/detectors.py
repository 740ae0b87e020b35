"""A tiny detector, and images with boxes that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlib.testing.rows import write_jsonl

BOXED_SIZE = 32
"""Pixels of an image's sides."""
_COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220)}


def tiny_detector(folder: Path, labels: Sequence[str] = ("cat", "dog"), *, seed: int = 0) -> Path:
    """Write a YOLOS of two layers and six queries with its image processor."""
    import torch
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    make: Any = YolosConfig
    config = make(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=[BOXED_SIZE, BOXED_SIZE],
        patch_size=8,
        num_detection_tokens=6,
        use_mid_position_embeddings=False,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    processor: Any = YolosImageProcessorPil(size={"height": BOXED_SIZE, "width": BOXED_SIZE}, do_pad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = YolosForObjectDetection(config)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def tiny_boxed_rows(path: Path, count: int, *, seed: int = 0) -> Path:
    """Write images of noise with none to two squares of a colour, and the file of rows that names them."""
    import numpy as np
    from PIL import Image

    draw, rows = np.random.default_rng(seed), list[dict[str, object]]()
    path.parent.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = draw.integers(0, 90, (BOXED_SIZE, BOXED_SIZE, 3), np.uint8)
        boxes: list[dict[str, object]] = []
        for half in range(i % 3):
            label, side = [*_COLOURS][int(draw.integers(3))], int(draw.integers(6, 15))
            left, top = int(draw.integers(0, 16 - side + 1)) + 16 * half, int(draw.integers(0, BOXED_SIZE - side))
            pixels[top : top + side, left : left + side] = _COLOURS[label]
            boxes.append({"label": label, "box": [left, top, side, side]})
        Image.fromarray(pixels).save(path.parent / f"{path.stem}-{i}.png")
        rows.append({"image": f"{path.stem}-{i}.png", "boxes": boxes})
    return write_jsonl(path, rows)
