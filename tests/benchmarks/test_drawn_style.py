"""The row of evidence about drawn styles: the same captions from the same seeds, and distances that can differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.evidence import drawn_style
from ftlib.data.prepared import split_file
from ftlib.testing import tiny_image_classifier
from tests.ftlib.training.test_denoising import rows, started

pytestmark = pytest.mark.slow


def test_a_checkpoint_that_draws_the_rows_own_images_is_at_no_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    start, data = started(tmp_path), rows(tmp_path / "rows")
    features = tiny_image_classifier(tmp_path / "features", "efficientnet")
    split, asked = split_file(data.path, "test"), {"most": 4, "steps": 2}
    whole = drawn_style.distance(start, split, features, **asked)
    assert whole > 0
    assert drawn_style.distance(start, split, features, **asked) == whole  # the same seeds draw the same
    own = list[Any]()
    monkeypatch.setattr(drawn_style, "style", lambda images, _: own.append(images) or np.zeros((len(images), 2)))
    drawn_style.distance(start, split, features, **asked)
    real, drawn = own
    assert [image.size for image in drawn] == [image.size for image in real] == [(8, 8)] * 4
    monkeypatch.undo()
    monkeypatch.setattr(drawn_style, "_drawn", lambda *_: [np.asarray(image) for image in real])
    assert drawn_style.distance(start, split, features, **asked) == 0.0
    assert all(isinstance(image, Image.Image) for image in real)
