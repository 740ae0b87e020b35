"""Augmentation is a pure function of seed, epoch and row: not of the batch, the worker, or what was drawn before."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ftlib.data.formats.boxed_image import BoxedImage
from ftlib.data.inputs import Pixels
from ftlib.data.prepared import split_file
from ftlib.errors import RecipeError
from ftlib.kinds.box_loss import NO_BOX
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_processor
from ftlib.kinds.open_split import open_split
from ftlib.testing import tiny_boxed_cells, tiny_detector, tiny_prepared_as
from ftlib.training import curves
from ftlib.training.augmentation.images import ImageAugmentation
from ftlib.training.augmentation.mirrored_images import Mirror
from ftlib.training.loops.batches import Order
from tests.ftlib.training.image_kit import LABELS, PIXELS, image_data, image_phase, image_start, trained

EVERYTHING = ImageAugmentation(crop_scale=(0.3, 0.9), flip=0.5, colour=0.3, erase=0.5)
STILL = {"learning_rate": 1e-6, "weight_decay": 0.0}
COLLATE = Collator(0, None, frozenset({"pixel_values"}), torch.device("cpu"))


def picture(seed: int = 0) -> Any:
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def test_a_row_is_the_same_bits_whatever_is_drawn_before_or_beside_it() -> None:
    alone = EVERYTHING.of(3, 1, 0)(17, picture())
    augment = EVERYTHING.of(3, 1, 0)
    before = torch.random.get_rng_state()
    torch.rand(5)
    state = torch.random.get_rng_state()
    others = [augment(row, picture(row)) for row in range(5)]
    assert np.array_equal(augment(17, picture()), alone)
    assert len({one.tobytes() for one in others}) == 5
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.random.set_rng_state(before)
    seen = [
        EVERYTHING.of(*key)(row, picture())
        for *key, row in ((3, 1, 0, 18), (3, 2, 0, 17), (4, 1, 0, 17), (3, 1, 1, 17))
    ]
    assert all(not np.array_equal(one, alone) for one in seen)
    assert alone.dtype == np.float32
    assert alone.shape == (3, 32, 32)
    assert 0 <= alone.min() < alone.max() <= 255


def test_each_change_is_what_its_field_says() -> None:
    nothing = ImageAugmentation(crop_scale=None, flip=0, colour=0, erase=0)
    np.testing.assert_allclose(nothing.of(0, 0, 0)(0, picture()), picture(), atol=1e-4)
    mirrored = nothing.model_copy(update={"flip": 1.0}).of(0, 0, 0)(0, picture())
    np.testing.assert_allclose(mirrored, picture()[:, :, ::-1], atol=1e-4)
    holes = [nothing.model_copy(update={"erase": 1.0}).of(0, 0, 0)(row, picture()) for row in range(40)]
    shares = [float((np.abs(hole - 127.5) < 1e-3).all(axis=0).mean()) for hole in holes]
    assert 0.01 < min(shares) < max(shares) < 0.36
    flips = [nothing.model_copy(update={"flip": 0.25}).of(0, 0, 0)(row, picture()) for row in range(400)]
    assert 0.15 < np.mean([not np.allclose(one, picture(), atol=1e-3) for one in flips]) < 0.35
    ramp = np.broadcast_to(np.arange(32, dtype=np.uint8) * 8, (3, 32, 32)).copy()
    crops = [nothing.model_copy(update={"crop_scale": (0.25, 0.25)}).of(0, 0, 0)(row, ramp) for row in range(40)]
    spans = [float(np.ptp(crop)) for crop in crops]  # of 248: a side is half, times the root of 3:4 to 4:3
    assert 248 * 0.35 < min(spans) < max(spans) < 248 * 0.65


def test_the_loop_changes_training_rows_alone_and_each_epoch_anew(tmp_path: Path) -> None:
    start, data = image_start(tmp_path, "resnet"), image_data(tmp_path / "data")
    phase = image_phase({"kind": "full"}, augmentation=EVERYTHING.model_dump(), optimizer=STILL)
    ends = [trained(tmp_path / f"{size}", start, data, phase, micro_batch_size=size) for size in (None, 3)]
    records = [curves.read(end.path / curves.FILE) for end in ends]
    series = [[record["loss"] for record in one if "loss" in record] for one in records]
    assert series[0] == pytest.approx(series[1], rel=1e-5)
    still = trained(tmp_path / "still", start, data, image_phase({"kind": "full"}, optimizer=STILL))
    unchanged = curves.read(still.path / curves.FILE)
    judged = [
        [record["validation_loss"] for record in one if "validation_loss" in record] for one in (records[0], unchanged)
    ]
    assert judged[0] == pytest.approx(judged[1], rel=2e-3)
    plain = [record["loss"] for record in unchanged if "loss" in record]
    assert max(abs(a - b) for a, b in zip(series[0], plain, strict=True)) > 1e-2
    # The weights all but stand still, so what differs between the passes is the augmentation.
    assert abs(np.mean(series[0][:3]) - np.mean(series[0][3:])) > 1e-2
    assert abs(np.mean(plain[:3]) - np.mean(plain[3:])) < 2e-3


def test_a_batch_is_normalised_after_it_was_changed(tmp_path: Path) -> None:
    split = open_split(split_file(image_data(tmp_path).path, "train"), LABELS)
    augment = EVERYTHING.of(3, 1, 0)
    (column,) = PIXELS
    assert isinstance(column, Pixels)
    batch = split.batch([4, 2], COLLATE, augment).inputs["pixel_values"]
    rows = [augment(row, split.pixels([row], column.name)[0]) / 255 for row in (4, 2)]
    np.testing.assert_allclose(batch.numpy(), (np.stack(rows) - 0.5) / 0.5, atol=1e-5)
    again = split.batch([2, 1, 4], COLLATE, augment).inputs["pixel_values"]
    assert torch.equal(batch[0], again[2])
    assert torch.equal(batch[1], again[0])


def test_batches_know_how_often_their_rows_were_seen() -> None:
    sizes = [np.full(10, 4), np.full(4, 4)]
    order = Order(sizes, [0.5, 0.5], 4, 0)
    seen: dict[int, list[int]] = {0: [], 1: []}
    for step in range(6 * order.steps_per_epoch):
        batch = order.at(step)
        seen[batch.part] += [batch.epoch] * len(batch.rows)
    for part, count in ((0, 10), (1, 4)):
        passes = seen[part]
        assert passes == [i // count for i in range(len(passes))]


def test_without_kornia_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"needs kornia, which is not installed: pip install 'reglage\[images\]'"):
        EVERYTHING.of(0, 0, 0)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.8, 0.2), (0.5, 1.5)])
def test_a_range_that_is_none_is_said(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"shares of the area|less than or equal to 1"):
        ImageAugmentation(crop_scale=scale)


def test_boxes_go_to_the_other_side_with_what_they_hold(tmp_path: Path) -> None:
    processor = load_processor(tiny_detector(tmp_path / "detector"))
    data = tiny_prepared_as(tmp_path / "boxed", BoxedImage(), {"train": tiny_boxed_cells(24)}, processor)
    split = open_split(split_file(data.path, "train"), ("cat", "dog"))
    plain = split.batch(range(len(split)), COLLATE)
    mirror = Mirror().of(5, 0, 0)
    changed = split.batch(range(len(split)), COLLATE, mirror)
    assert plain.targets is not None
    assert changed.targets is not None
    which = [mirror.mirrors(row) for row in range(len(split))]
    assert 0 < sum(which) < len(split)
    for row, turned in enumerate(which):
        images = [one.inputs["pixel_values"][row] for one in (plain, changed)]
        assert torch.equal(images[1], images[0].flip(-1) if turned else images[0])
        for before, after in zip(plain.targets[row], changed.targets[row], strict=True):
            if before[0] == NO_BOX:
                assert torch.equal(before, after)
                continue
            holds = [held(image, box) for image, box in zip(images, (before, after), strict=True)]
            assert torch.equal(holds[1], holds[0].flip(-1) if turned else holds[0])
            assert holds[1].numel()


def held(image: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """Return the pixels in a target's box."""
    middle, half = box[1:3], box[3:] / 2
    sides = [(one * image.shape[-1]).round().int().tolist() for one in (middle - half, middle + half)]
    (left, top), (right, low) = sides
    return image[:, top:low, left:right]
