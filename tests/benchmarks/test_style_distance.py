"""The distance of styles: none between equal images, and told by numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import style_distance
from ftlib.testing import tiny_captioned_rows, tiny_image_classifier, tiny_pipeline


def test_distances_are_squares_in_units_of_the_real_images_spread() -> None:
    real = np.array([[0.0, 10.0], [2.0, 30.0], [4.0, 50.0]])
    assert style_distance.distances(real, real).tolist() == [0.0, 0.0, 0.0]
    moved = style_distance.distances(real + real.std(axis=0), real)
    assert moved == pytest.approx([1.0, 1.0, 1.0], rel=1e-4)
    mean, low, high = style_distance.interval(np.array([1.0, 2.0, 3.0, 4.0]))
    assert low < mean == 2.5 < high


@pytest.mark.slow
def test_two_pipelines_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tiny_captioned_rows(tmp_path / "rows", 6)
    one, two = (str(tiny_pipeline(tmp_path / name, seed=i)) for i, name in enumerate(("one", "two")))
    features = tiny_image_classifier(tmp_path / "features", "efficientnet")
    asked = ["--rows", str(tmp_path / "rows"), "--features", str(features), "--steps", "3"]
    assert style_distance.main([one, two, *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [one, two, "last - first"]
    assert style_distance.main([one, one, *asked]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "last - first: +0.000 [+0.000, +0.000]"
