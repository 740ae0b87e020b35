"""The page of a search says what was tried, what mattered, and what broke."""

import math
from pathlib import Path

import pytest

from ftlib.evaluation.measured import Estimate
from ftlib.report import render
from ftlib.report.search_page import search_page
from ftlib.search.importance import importances
from ftlib.search.record import SearchRecord, SoupFacts
from ftlib.search.search import Search
from ftlib.search.space import Choice, LogUniform, Uniform
from ftlib.search.trial import Outcome, Trial

SPACE = {
    "a.rate": LogUniform(low=1e-5, high=1e-1),
    "a.idle": Uniform(low=0.0, high=1.0),
    "a.kind": Choice(values=("<b>", {"x": 1})),
}


def trials(count: int) -> tuple[Trial, ...]:
    """The metric follows the rate alone; the last two broke."""
    made: list[Trial] = []
    for i in range(count):
        rate = 10 ** -(1 + 4 * (i * 7 % count) / count)
        points = {
            "a.rate": rate,
            "a.idle": (i * 5 % count) / count,
            "a.kind": i % 2,
        }
        value = 1 - abs(math.log10(rate) + 3) / 4
        done = Outcome(state="done", value=Estimate(value=value, low=value - 0.1, high=value + 0.1), candidate="tune")
        broke = Outcome(state="diverged", reason="the loss is nan | at step 3", seconds=2.0)
        values = {path: SPACE[path].value(point) for path, point in points.items()}
        made.append(Trial(number=i, points=points, values=values, outcome=done if i < count - 2 else broke))
    return tuple(made)


def record(count: int, **fields: object) -> SearchRecord:
    tried = trials(count)
    search = Search(space=SPACE)
    best = max((one for one in tried if one.measured is not None), key=lambda one: one.measured or 0)
    return SearchRecord(
        recipe="r",
        metric="home/accuracy",
        higher_is_better=True,
        search=search,
        trials=tried,
        best=best.number,
        overrides=(),
        importance=importances(search, tried, maximize=True),
        **fields,  # pyright: ignore[reportArgumentType]
    )


def test_the_field_that_the_metric_follows_mattered_most() -> None:
    shares = record(26).importance
    assert next(iter(shares)) == "a.rate"
    assert shares["a.rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1.0)


def test_nothing_is_said_of_what_mattered_where_little_was_measured() -> None:
    assert record(6).importance == {}


def test_the_page_shows_every_trial_the_best_and_what_broke(tmp_path: Path) -> None:
    searched = record(12, soup=SoupFacts(trials=(1, 2), candidate="soup of a+b", taken=False))
    page = search_page(searched, "reglage run r.yaml --set a.rate=0.001", tmp_path)
    html, markdown = render.html(page), render.markdown(page)
    for text in (html, markdown):
        assert "diverged" in text
        assert "of 10 measured trials" in text
        assert "reglage run r.yaml --set a.rate=0.001" in text
        assert "no better than" in text
    assert "&lt;b&gt;" in html  # a value is no markup
    assert "the loss is nan \\| at step 3" in markdown
    assert html.count("<svg") > 2
    assert {path.name for path in tmp_path.glob("*.png")} == {"best_so_far.png", "fields.png"}
    table = next(table for section in page.sections for table in section.tables if table.caption == "all trials")
    assert [row.cells[0].text for row in table.rows] == [str(number) for number in range(12)]
    assert [row.mark for row in table.rows].index("chosen") == searched.best
