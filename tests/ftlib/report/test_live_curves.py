"""The small picture of losses: where its points lie, and what it survives."""

import math
import re
from xml.etree import ElementTree

import pytest

from ftlib.report.live_curves import LossCurve, loss_curves

SVG = "{http://www.w3.org/2000/svg}"


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """The points of every line with a loss, in pixels."""
    paths = [path.get("d", "") for path in ElementTree.fromstring(svg).iter(f"{SVG}path") if path.get("fill") == "none"]
    return [[tuple(map(float, point.split())) for point in re.split("[ML]", path) if point] for path in paths]  # type: ignore[misc]


def test_points_lie_where_the_ticks_say() -> None:
    loss = [(step, 2.0 - step / 100) for step in range(1, 101)]
    svg = loss_curves([LossCurve("tune", loss, [(50, 1.6), (100, 1.2)], total=200)])
    measured, _, validation = lines(svg)
    assert len(measured) == 100
    texts = [
        (t.text, float(t.get("x", 0)), float(t.get("y", 0))) for t in ElementTree.fromstring(svg).iter(f"{SVG}text")
    ]
    at = {text: (x, y) for text, x, y in texts}
    assert measured[-1][0] == pytest.approx(at["100"][0], abs=0.1)
    assert at["200"][0] == pytest.approx(744)  # of a training that is half done
    y1, y15 = at["1"][1] - 4, at["1.5"][1] - 4
    for (_, y), (_, value) in zip([measured[-1], *validation], [loss[-1], (50, 1.6), (100, 1.2)], strict=True):
        assert (y - y1) / (y15 - y1) == pytest.approx((value - 1.0) / 0.5, abs=0.01)
    assert svg.count("<circle") == 2


def test_a_picture_of_a_training_that_goes_on_says_how_far_it_reaches() -> None:
    """A peak at the last step drawn may be past by the page's numbers, which are newer: the step tells them apart."""
    loss = [(step, 0.5) for step in range(1, 1361)]
    assert "tune · loss to step 1,360<" in loss_curves([LossCurve("tune", loss, [(1359, 0.24)], 1800)])
    assert "tune · loss to step 1,362<" in loss_curves([LossCurve("tune", loss, [(1362, 0.8)], 1800)])
    assert "tune · loss<" in loss_curves([LossCurve("tune", loss, [], 1360)])
    peak = lines(loss_curves([LossCurve("tune", loss, [(1356, 0.25), (1359, 0.25), (1362, 0.8)], 1800)]))[-1]
    assert peak[-1][1] < peak[-2][1]  # what was measured is drawn, and not smoothed away


def test_ten_thousand_steps_stay_small_and_keep_the_last() -> None:
    loss = [(step, math.exp(-step / 3000)) for step in range(1, 10_001)]
    svg = loss_curves([LossCurve("tune", loss, [], total=10_000)])
    assert len(svg) < 20_000
    assert lines(svg)[0][-1][0] == pytest.approx(744)


@pytest.mark.parametrize(
    "loss",
    [[], [(1, math.nan)], [(1, math.inf), (2, math.nan)]],
    ids=["none", "nan", "not finite"],
)
def test_nothing_to_draw_is_nothing(loss: list[tuple[float, float]]) -> None:
    assert loss_curves([LossCurve("tune", loss, [])]) == ""


@pytest.mark.parametrize(
    "loss", [[(1, 0.0)], [(1, 5.0), (2, 5.0)], [(1, -3.0), (2, math.nan), (3, 1e30)], [(1, 1e-12)]]
)
def test_any_finite_loss_is_a_picture_within_its_frame(loss: list[tuple[float, float]]) -> None:
    svg = loss_curves([LossCurve("a <b> & 'c'", loss, loss), LossCurve("tune", loss, [])])
    assert ElementTree.fromstring(svg).get("height") == "460"
    for line in lines(svg):
        assert all(58 <= x <= 744 and 0 <= y <= 460 for x, y in line)
