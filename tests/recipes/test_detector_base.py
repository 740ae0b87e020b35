"""The detector that others start from: what it learns of is drawn where its targets say, and stock code loads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoImageProcessor, AutoModelForObjectDetection

from ftlib.kinds.box_loss import NO_BOX
from recipes import detector_base
from recipes.composites import SIZE, ground


def test_shapes_fill_their_boxes_and_nothing_else_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detector_base, "BATCH", 12)
    photos = [np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)]
    pixels, targets = detector_base.drawn(photos, [3, 0])
    counts = (targets[..., 0] != NO_BOX).sum(axis=1)
    assert 0 in counts
    assert counts.max() > 1
    for row, (image, boxes) in enumerate(zip(pixels, targets, strict=True)):
        draw = np.random.default_rng([3, 0, row])
        under = np.asarray(ground(photos[int(draw.integers(1))], draw, left=True), np.float32).transpose(2, 0, 1)
        changed = (image != under).any(axis=0)
        for box in boxes[boxes[:, 0] != NO_BOX]:
            (left, top), (right, low) = (
                np.round((box[1:3] + sign * box[3:] / 2) * SIZE).astype(int) for sign in (-1, 1)
            )
            inside = changed[top:low, left:right]
            edges = (inside[:2], inside[-2:], inside[:, :2], inside[:, -2:])  # noise may have the shape's colour
            assert all(edge.any() for edge in edges)
            changed[top:low, left:right] = False
        assert not changed.any()


def test_stock_transformers_loads_it_and_the_same_steps_give_the_same_bytes(tmp_path: Path) -> None:
    said = [detector_base.build(tmp_path / name, steps=2) for name in ("one", "two")]
    assert said[0] == said[1]
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two
    model = AutoModelForObjectDetection.from_pretrained(tmp_path / "one")
    assert AutoImageProcessor.from_pretrained(tmp_path / "one").size["height"] == SIZE
    assert model.config.num_detection_tokens == detector_base.SIDE**2
    detector_base.build(tmp_path / "random", steps=0)
    assert (tmp_path / "random" / "model.safetensors").read_bytes() != one


def test_steps_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("many", "-1"):
        assert detector_base.main([str(tmp_path / "model"), words]) == 2
        assert "allowed is 0 or a number of them" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
