"""A small detector that finds drawn shapes: YOLOS for images of 128 pixels, since no package holds one that has learnt.

    python -m recipes.detector_base models/yolos-small             # 3,000 steps
    python -m recipes.detector_base models/yolos-small 0           # random weights

writes a folder that stock transformers loads: patches of 16 pixels, 16 queries. It learns from shapes of six kinds that
are drawn on pieces of the left parts of scikit-learn's two photos, anew in each step. The same steps on the same
machine give the same bytes.

A new YOLOS of transformers has zeros where places and queries are told apart: all of its queries say one box, and no
patch knows where it lies. Here patches begin with waves of their line and column, and each query with those of a place
of its own, and it is the query nearest to a box that learns to say it. Each patch in a box is asked for that box as
well, by the layers that queries are asked by: it is sooner learnt what lies where than whom to ask for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ftlib.errors import RecipeError
from ftlib.merging.files import scratch_beside
from ftlib.models.quiet import quiet
from recipes.building import build_once
from recipes.composites import SIZE, ground, touch

PATCH, SIDE, WIDTH, LAYERS = 16, 4, 96, 4
"""SIDE * SIDE are the queries."""
KINDS = ("ellipse", "rectangle", "triangle", "ring", "cross", "diamond")
STEPS, BATCH, RATE, WARM_UP = 3_000, 16, 1e-3, 200
PATCHES_COUNT = 0.25
"""What the loss of patches counts, beside 1 for that of queries."""


def begin(seed: int = 0) -> tuple[Any, Any]:
    """Return the model, of random weights, and its image processor."""
    import torch
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    make: Any = YolosConfig  # whose stubs do not know what every config takes
    config = make(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        image_size=[SIZE, SIZE],
        patch_size=PATCH,
        num_detection_tokens=SIDE * SIDE,
        use_mid_position_embeddings=False,
        id2label=dict(enumerate(KINDS)),
        label2id={name: i for i, name in enumerate(KINDS)},
        initializer_range=WIDTH**-0.5,
    )
    processor: Any = YolosImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_pad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = YolosForObjectDetection(config)
        patches = SIZE // PATCH
        with torch.no_grad():
            places = model.vit.embeddings.position_embeddings.normal_(std=0.1)
            places[0, 1 : 1 + patches**2] = _waves(patches)
            places[0, 1 + patches**2 :] += _waves(SIDE)
            model.vit.embeddings.detection_tokens.normal_()
    return model, processor


def _waves(side: int) -> Any:
    """Return side * side x WIDTH: sines and cosines of each place's line, then of its column, of PATCHes."""
    import torch

    rates = 100.0 ** -(torch.arange(WIDTH // 4) * 4 / WIDTH)
    angles = ((torch.arange(side) + 0.5) * SIZE / PATCH / side)[:, None] * rates
    one = torch.cat([angles.sin(), angles.cos()], dim=-1)
    lines, columns = one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)
    return torch.cat([lines, columns], dim=-1).flatten(0, 1)


def train(model: Any, processor: Any, steps: int, seed: int = 0) -> float:
    """Teach the model to find drawn shapes, in place; return the mean loss of the last hundred steps."""
    import torch

    from ftlib.kinds.box_loss import match, matched_losses

    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-4)
    mean, std = (torch.tensor(each).reshape(3, 1, 1) for each in (processor.image_mean, processor.image_std))
    middles = (torch.arange(SIDE) + 0.5) / SIDE
    lines, columns = torch.meshgrid(middles, middles, indexing="ij")
    side = torch.full((SIDE, SIDE), 1 / SIDE)
    anchors = torch.stack([columns, lines, side, side], dim=-1).reshape(1, -1, 4).expand(BATCH, -1, -1)
    queries = SIDE * SIDE
    photos, losses, began = _photos(), list[float](), time.monotonic()
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * min(1, 2 * (1 - step / steps))
        pixels, targets = drawn(photos, [seed, step])
        labels, boxes = torch.from_numpy(targets[..., 0]).long(), torch.from_numpy(targets[..., 1:])
        hidden = model.vit((torch.from_numpy(pixels) / 255 - mean) / std).last_hidden_state[:, 1:]
        logits, said = model.class_labels_classifier(hidden), model.bbox_predictor(hidden).sigmoid()
        nearest = match(torch.zeros_like(logits[:, -queries:]), anchors, labels, boxes)
        of_queries = matched_losses(logits[:, -queries:], said[:, -queries:], labels, boxes, nearest)
        within = _within(labels, boxes)
        of_patches = matched_losses(logits[:, :-queries], said[:, :-queries], labels, boxes, within)
        loss = of_queries.mean() + PATCHES_COUNT * of_patches.mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(of_queries.detach().mean()))
        if (step + 1) % max(1, steps // 10) == 0:
            print(f"step {step + 1} of {steps}: loss {np.mean(losses[-100:]):.3f}, {time.monotonic() - began:.0f} s")
    model.eval()
    return float(np.mean(losses[-100:]))


def _within(labels: Any, boxes: Any) -> Any:
    """Return the pairs of patches and the boxes that their middles lie in."""
    import torch

    from ftlib.kinds.box_loss import NO_BOX

    patches = SIZE // PATCH
    middles = (torch.arange(patches) + 0.5) / patches
    lines, columns = torch.meshgrid(middles, middles, indexing="ij")
    places = torch.stack([columns, lines], dim=-1).reshape(1, -1, 1, 2)
    inside = ((places - boxes[:, None, :, :2]).abs() < boxes[:, None, :, 2:] / 2).all(-1)
    return (inside & (labels != NO_BOX)[:, None]).nonzero(as_tuple=True)


def _photos() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [*load_sample_images().images]


def drawn(photos: list[np.ndarray], seed: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch of images with shapes, float32 of 0 to 255, and their boxes as a detector's targets."""
    from ftlib.kinds.box_loss import NO_BOX

    pixels = np.empty((BATCH, 3, SIZE, SIZE), np.float32)
    targets = np.full((BATCH, 4, 5), float(NO_BOX), np.float32)
    for i in range(BATCH):
        draw = np.random.default_rng([*seed, i])
        image = ground(photos[int(draw.integers(len(photos)))], draw, left=True)
        boxes: list[list[int]] = []
        for _ in range(int(draw.integers(0, 5))):
            kind = int(draw.integers(len(KINDS)))
            width, height = (int(side) for side in draw.integers(20, 61, 2))
            box = [int(draw.integers(0, SIZE - width + 1)), int(draw.integers(0, SIZE - height + 1)), width, height]
            if not any(touch(box, other) for other in boxes):
                _draw(image, KINDS[kind], box, draw)
                middle = [box[0] + width / 2, box[1] + height / 2, width, height]
                targets[i, len(boxes)] = [kind, *(value / SIZE for value in middle)]
                boxes.append(box)
        pixels[i] = np.asarray(image, np.float32).transpose(2, 0, 1)
    return pixels, targets


def _draw(image: Any, kind: str, box: list[int], draw: np.random.Generator) -> None:
    """Draw a shape that fills its box, in colours that change from side to side and from top to bottom."""
    from PIL import Image, ImageDraw

    width, height = box[2:]
    mask = Image.new("L", (width, height), 0)
    brush = ImageDraw.Draw(mask)
    right, low, middle, half = width - 1, height - 1, (width - 1) / 2, (height - 1) / 2
    corners: Mapping[str, list[tuple[float, float]]] = {
        "triangle": [(middle, 0), (right, low), (0, low)],
        "diamond": [(middle, 0), (right, half), (middle, low), (0, half)],
    }
    third = (width / 3, height / 3)
    if kind in corners:
        brush.polygon(corners[kind], fill=255)
    elif kind == "cross":
        brush.rectangle([third[0], 0, 2 * third[0], low], fill=255)
        brush.rectangle([0, third[1], right, 2 * third[1]], fill=255)
    elif kind == "rectangle":
        brush.rectangle([0, 0, right, low], fill=255)
    else:
        brush.ellipse([0, 0, right, low], fill=255)
        if kind == "ring":
            brush.ellipse([width / 4, height / 4, 3 * width / 4, 3 * height / 4], fill=0)
    colours = Image.fromarray(draw.integers(0, 256, (2, 2, 3), np.uint8))
    image.paste(colours.resize((width, height), Image.Resampling.BILINEAR), (box[0], box[1]), mask)


def build(out: Path, steps: int = STEPS, seed: int = 0) -> str:
    """Write the model `out`, which must not exist, and say what it is."""
    model, processor = begin(seed)
    loss = train(model, processor, steps, seed) if steps else None
    with scratch_beside(out) as scratch, quiet():
        model.save_pretrained(made := scratch / "made")
        processor.save_pretrained(made)
        made.rename(out)
    learnt = f"loss {loss:.3f} after {steps:,} steps" if loss is not None else "random weights"
    return f"{sum(p.numel() for p in model.parameters()):,} parameters, {learnt}"


def main(arguments: list[str]) -> int:
    """Build to the first argument, models/yolos-small where there is none, with the second's number of steps."""
    out = Path(arguments[0] if arguments else "models/yolos-small")

    def write() -> str:
        try:
            steps = int(arguments[1]) if len(arguments) > 1 else STEPS
        except ValueError:
            steps = -1
        if steps < 0:
            raise RecipeError(f"steps are {arguments[1]!r}, allowed is 0 or a number of them, such as {STEPS}")
        return build(out, steps)

    return build_once("detector_base", out, out / "config.json", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
