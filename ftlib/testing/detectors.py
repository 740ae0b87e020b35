"""A tiny detector, and images with boxes that it reads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlib.data.images.cells import from_cell, to_cell
from ftlib.testing.rows import write_jsonl

BOXED_SIZE = 32
"""Pixels of an image's sides."""


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


def tiny_boxed_cells(count: int, labels: Sequence[str] = ("cat", "dog"), *, seed: int = 0) -> list[dict[str, object]]:
    """Make rows of a PNG as a data URI and its boxes: noise with none to two squares, a label's each of its colour.

    At most three labels.
    """
    import numpy as np
    from PIL import Image

    draw, rows = np.random.default_rng(seed), list[dict[str, object]]()
    for i in range(count):
        pixels = draw.integers(0, 90, (BOXED_SIZE, BOXED_SIZE, 3), np.uint8)
        boxes: list[dict[str, object]] = []
        for half in range(i % 3):
            label, side = int(draw.integers(len(labels))), int(draw.integers(6, 15))
            left, top = int(draw.integers(0, 16 - side + 1)) + 16 * half, int(draw.integers(0, BOXED_SIZE - side))
            pixels[top : top + side, left : left + side, label] += 150
            boxes.append({"label": labels[label], "box": [left, top, side, side]})
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG")
        rows.append({"image": to_cell(stream.getvalue()), "boxes": boxes})
    return rows


def tiny_boxed_rows(path: Path, count: int, *, seed: int = 0) -> Path:
    """Write such images as files, and the file of rows that names them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = tiny_boxed_cells(count, seed=seed)
    for i, row in enumerate(rows):
        name = f"{path.stem}-{i}.png"
        (path.parent / name).write_bytes(from_cell(str(row["image"])))
        row["image"] = name
    return write_jsonl(path, rows)
