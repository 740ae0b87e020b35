"""Entity metrics equal nervaluate's strict ones, over all rows and on every resample."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate import Evaluator

from ftlib.errors import DataError
from ftlib.evaluation.metrics import EntityF1, EntityPrecision, EntityRecall, Metric, TagAccuracy
from ftlib.kinds.outcomes import TaggedOutcomes
from ftlib.kinds.outcomes_file import read_outcomes

TAGS = ("B-LOC", "B-PER", "I-LOC", "I-PER", "O")
METRICS: tuple[Metric, ...] = (
    EntityF1(),
    EntityPrecision(),
    EntityRecall(),
    EntityF1(type="PER"),
    EntityPrecision(type="PER"),
    EntityRecall(type="LOC"),
    TagAccuracy(),
)


def tagged(rows: int, seed: int) -> TaggedOutcomes:
    """Return random answers, half of the words right."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, rows)
    gold = tuple(tuple(map(str, random.choice(TAGS, length))) for length in lengths)
    said = tuple(tuple(tag if random.random() < 0.5 else str(random.choice(TAGS)) for tag in tags) for tags in gold)
    return TaggedOutcomes(
        row_ids=tuple(map(str, range(rows))),
        nll=random.gamma(2, 1, rows),
        targets=lengths,
        labels=TAGS,
        gold=gold,
        predicted=said,
    )


def reference(metric: Metric, o: TaggedOutcomes) -> float:
    if isinstance(metric, TagAccuracy):
        flat = [(a, b) for gold, said in zip(o.gold, o.predicted, strict=True) for a, b in zip(gold, said, strict=True)]
        return sum(a == b for a, b in flat) / len(flat)
    assert isinstance(metric, (EntityF1, EntityPrecision, EntityRecall))
    evaluator = Evaluator([*map(list, o.gold)], [*map(list, o.predicted)], tags=["LOC", "PER"], loader="list")
    found = evaluator.evaluate()
    there = [tag for tags in o.gold for tag in tags if tag.endswith(metric.type or "") and tag != "O"]
    if not there:
        return math.nan
    strict = (found["entities"][metric.type] if metric.type else found["overall"])["strict"]
    if metric.score == "precision" and not strict.actual:
        return math.nan
    return float(getattr(strict, metric.score))


@settings(max_examples=40)
@given(rows=st.integers(1, 25), seed=st.integers(0, 1000), which=st.sampled_from(METRICS))
def test_a_metric_and_its_resamples_equal_the_reference(rows: int, seed: int, which: Metric) -> None:
    outcomes = tagged(rows, seed)
    assert which.compute(outcomes) == pytest.approx(reference(which, outcomes), abs=1e-12, nan_ok=True)
    draws = np.random.default_rng(seed).integers(0, rows, (5, rows))
    expected = [reference(which, outcomes.take(draw)) for draw in draws]
    assert which.resampled(outcomes, draws) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_an_entity_with_one_word_too_many_is_wrong_twice() -> None:
    o = TaggedOutcomes(
        row_ids=("a",),
        nll=np.ones(1),
        targets=np.array([3]),
        labels=TAGS,
        gold=(("B-PER", "I-PER", "O"),),
        predicted=(("B-PER", "I-PER", "I-PER"),),
    )
    assert (EntityF1().compute(o), TagAccuracy().compute(o)) == (0.0, pytest.approx(2 / 3))


def test_names_and_a_type_the_model_does_not_know() -> None:
    assert [metric.name for metric in METRICS[:4]] == [
        "entity_f1", "entity_precision", "entity_recall", "entity_f1:PER"
    ]  # fmt: skip
    with pytest.raises(DataError, match="'entity_f1:ORG': the model knows no entities of type 'ORG'; it has LOC, PER"):
        EntityF1(type="ORG").compute(tagged(3, 0))


def test_a_table_comes_back_from_its_file(tmp_path: Path) -> None:
    outcomes = tagged(12, 3)
    (tmp_path / "table.parquet").write_bytes(outcomes.to_parquet())
    back = read_outcomes(tmp_path / "table.parquet")
    assert isinstance(back, TaggedOutcomes)
    assert (back.gold, back.predicted, back.labels) == (outcomes.gold, outcomes.predicted, TAGS)
    assert (back.nll == outcomes.nll).all()
