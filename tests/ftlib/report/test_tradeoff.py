"""The plot along alpha says what was measured and what is expected."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from ftlib.report.tradeoff import Line, Point, alpha_curve


def test_a_curve_that_the_rule_went_by_is_drawn_beside_what_was_measured(tmp_path: Path) -> None:
    points = tuple(Point(x - 0.1, x, x + 0.1) for x in (0.5, 0.7, 0.6))
    curve = tuple((step / 10, Point(0.4, 0.6, 0.8)) for step in range(11))
    for name, line in (
        ("plain", Line("fit", "accuracy", points)),
        ("by", Line("fit", "accuracy", points, curve=curve)),
    ):
        figure = alpha_curve(tmp_path, (0.0, 0.5, 1.0), 1, [line], name)
        words = "".join(ElementTree.fromstring((tmp_path / f"{name}.svg").read_text()).itertext())
        assert ("fit accuracy, expected" in words) == bool(line.curve)
        assert ("fit accuracy, measured" in words) == bool(line.curve)
        assert ("what is expected, by which the rule chose" in figure.caption) == bool(line.curve)
