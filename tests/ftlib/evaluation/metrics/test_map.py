"""Average precision of boxes: by hand, as pycocotools sums it up, and of images that are repeated."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest

from ftlib.evaluation.metrics.box_matches import AveragePrecision, evaluated
from ftlib.evaluation.metrics.map import MAP
from ftlib.evaluation.metrics.map50 import MAP50
from ftlib.kinds.outcomes import BoxOutcomes
from ftlib.kinds.outcomes.boxes import FoundBox, TrueBox
from ftlib.kinds.outcomes_file import parse_outcomes

LABELS = ("a", "b", "unseen")


def table(gold: list[list[TrueBox]], predicted: list[list[FoundBox]]) -> BoxOutcomes:
    ones = np.ones(len(gold))
    return BoxOutcomes(
        row_ids=tuple(map(str, range(len(gold)))),
        nll=ones,
        targets=ones.astype(np.int64),
        labels=LABELS,
        gold=tuple(map(tuple, gold)),
        predicted=tuple(map(tuple, predicted)),
    )


def drawn(images: int = 30, seed: int = 0) -> BoxOutcomes:
    """Make images whose boxes are found with some error, beside boxes that are not there, crowds, and empty images."""
    random = np.random.default_rng(seed)
    gold: list[list[TrueBox]] = []
    predicted: list[list[FoundBox]] = []
    for _ in range(images):
        boxes = [
            TrueBox(LABELS[random.integers(2)], *random.uniform(0, 0.5, 2), *random.uniform(0.2, 0.5, 2), bool(crowd))
            for crowd in random.random(random.integers(0, 4)) < 0.1
        ]
        found = [
            FoundBox(box.label, *(np.array(box[1:5]) + random.normal(0, 0.03, 4)), float(random.random()))
            for box in boxes
            if random.random() < 0.8
        ]
        stray = [
            FoundBox(LABELS[random.integers(2)], *random.uniform(0.1, 0.5, 4), float(random.random())) for _ in "ab"
        ]
        gold.append(boxes)
        predicted.append([*found, *stray])
    return table(gold, predicted)


def test_it_is_what_the_protocol_says_by_hand() -> None:
    right, half = TrueBox("a", 0, 0, 0.4, 0.4), TrueBox("a", 0.5, 0.5, 0.4, 0.4)
    outcomes = table(
        [[right, half], []],
        [
            [FoundBox("a", 0, 0, 0.4, 0.4, 0.9), FoundBox("a", 0.5, 0.5, 0.4, 0.29, 0.3)],
            [FoundBox("a", *right[1:5], 0.6)],
        ],
    )
    # Found: right, wrong, right with an overlap of 0.725. Precision is 1 up to a recall of one half (51 of 101 places),
    # then 2/3; at overlaps above 0.7 nothing is found behind one half.
    full = (51 + 50 * 2 / 3) / 101
    assert MAP50().compute(outcomes) == pytest.approx(full)
    assert MAP().compute(outcomes) == pytest.approx((5 * full + 5 * 51 / 101) / 10, abs=1e-9)


@pytest.mark.parametrize("metric", [MAP(), MAP50()])
def test_it_is_pycocotools_own_summary(metric: AveragePrecision) -> None:
    outcomes = drawn()
    evaluation = evaluated(outcomes, metric.overlaps)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    theirs = float(precision[precision > -1].mean())
    assert 0.1 < theirs < 0.9
    assert metric.compute(outcomes) == pytest.approx(theirs, abs=1e-9)


def test_a_resample_is_the_metric_of_the_images_that_were_drawn() -> None:
    outcomes, random = drawn(), np.random.default_rng(1)
    rows = random.integers(0, len(outcomes), (4, len(outcomes)))
    each = [MAP50().compute(outcomes.take(draw)) for draw in rows]
    assert MAP50().resampled(outcomes, rows) == pytest.approx(each, abs=1e-9)
    assert len({round(value, 6) for value in each}) > 1


def test_without_a_box_it_is_undefined() -> None:
    assert np.isnan(MAP50().compute(table([[]], [[FoundBox("a", 0, 0, 1, 1, 0.5)]])))
    assert MAP50().compute(table([[TrueBox("a", 0, 0, 1, 1)]], [[]])) == 0.0


def test_a_table_is_read_as_it_was_written() -> None:
    outcomes = drawn(5)
    again = parse_outcomes(outcomes.to_parquet())
    assert isinstance(again, BoxOutcomes)
    assert (again.gold, again.predicted, again.labels) == (outcomes.gold, outcomes.predicted, LABELS)
