"""Gain against loss along alpha: its numbers are paired differences, and what is predicted is a parabola."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from ftlib.evaluation.bootstrap import Resampling, difference
from ftlib.evaluation.kl_to_start import predicted
from ftlib.evaluation.measured import Estimate, tables_in
from ftlib.evaluation.metrics import LogLoss
from ftlib.report.alignment_tax import Tax, tax_of, tax_section
from ftlib.report.sections import selection_section
from ftlib.report.tradeoff import Line, Point
from ftlib.workspace import Workspace
from tests.ftlib.stages.test_report import recipe, records

ALPHAS = (0.0, 0.5, 1.0)


def test_one_distance_predicts_the_curve() -> None:
    assert predicted([0.0, 0.5, 1.0], 0.8) == pytest.approx((0.0, 0.2, 0.8))


def test_near_the_start_the_distance_grows_with_alpha_squared() -> None:
    """The prediction against the distance itself, of answers whose logits move along a line."""
    import numpy as np
    from scipy.special import rel_entr, softmax

    random = np.random.default_rng(0)
    start, step = random.normal(size=(50, 4)), 0.05 * random.normal(size=(50, 4))
    p = softmax(start, axis=1)
    moved = [rel_entr(p, softmax(start + a * step, axis=1)).sum(axis=1).mean() for a in (0.25, 0.5, 1.0)]
    assert predicted([0.25, 0.5, 1.0], moved[-1]) == pytest.approx(moved, rel=0.02)


def test_gains_and_losses_are_paired_with_the_start(tmp_path: Path) -> None:
    work = Workspace(tmp_path / "work")
    metrics = [{"kind": "accuracy"}, {"kind": "log_loss"}]
    of = recipe(
        evaluations={
            "fit": {"dataset": "rows", "metrics": metrics, "resamples": 100},
            "old": {"dataset": "elsewhere", "role": "retained", "metrics": metrics, "resamples": 100},
        },
        select={
            "rule": "within", "by": "fit/log_loss", "divergence": "fit/kl_to_start", "at_most": 9.0,
        },
    )  # fmt: skip
    evidence = records(tmp_path, work, of).evidence
    tax = tax_of(evidence, work, "fit/log_loss", "old/log_loss")
    assert tax is not None
    assert tax.lost is not None
    assert (tax.alphas, tax.names) == (ALPHAS, ("alpha=0", "alpha=0.5", "alpha=1"))
    for line, evaluation, sign in ((tax.gain, "fit", -1.0), (tax.lost, "old", 1.0)):
        cells = next(r for r in evidence.sweep if r.measured[0].evaluation == evaluation).measured
        start, _, end = (tables_in(work)(cell) for cell in cells)
        found = difference(LogLoss(), end, start, Resampling(100, 0.95, of.seed))
        assert line.values[0] == Point(0.0, 0.0, 0.0)
        assert line.values[-1].value == pytest.approx(sign * (found.value or 0.0))
        assert {line.values[-1].low, line.values[-1].high} == {sign * (found.low or 0.0), sign * (found.high or 0.0)}
    assert evidence.selection.kl is not None
    assert [one and one.value for one in tax.kl] == [one.kl.value for one in evidence.selection.kl.moved]
    guess = tuple(Estimate(value=0.5, low=0.4, high=0.6) for _ in ALPHAS)
    chosen = evidence.selection.model_copy(update={"expected": guess})
    columns = selection_section(of, chosen, evidence.candidates, evidence.sweep, ()).tables[0].columns
    assert (columns[1], columns[-1]) == ("expected fit log loss", "fit KL to start, nats")
    section = tax_section(tax, tmp_path)
    rows = [[cell.text for cell in row.cells] for row in section.tables[0].rows]
    assert [row.mark for row in section.tables[0].rows][tax.chosen] == "chosen"
    assert section.tables[0].columns == [
        "candidate", "gain of fit log loss", "loss of old log loss", "predicted loss", "KL to the start", "predicted KL"
    ]  # fmt: skip
    assert len(rows) == 3
    words = "".join(ElementTree.fromstring((tmp_path / "alignment_tax.svg").read_text()).itertext())
    for said in ("what the gain costs", "loss of old log loss", "KL to the start, nats per row", "predicted"):
        assert said in words


def test_where_nothing_is_held_against_the_gain_a_table_says_it(tmp_path: Path) -> None:
    gain = Line("fit", "accuracy", tuple(Point(x - 0.01, x, x + 0.01) for x in (0.0, 0.02, 0.03)))
    known = tuple(Estimate(value=x, low=x, high=x) for x in (0.0, 0.3, 1.0))
    section = tax_section(Tax(ALPHAS, 1, ("a", "b", "c"), gain, None, known), tmp_path)
    assert not section.figures
    assert [row.cells[3].text for row in section.tables[0].rows] == ["0.000", "0.250", "1.000"]
    alone = tax_section(Tax(ALPHAS, 1, ("a", "b", "c"), gain, None, known, "token", budgeted=True), tmp_path)
    assert [figure.name for figure in alone.figures] == ["alignment_tax"]
    assert "nats per token" in alone.lead
