"""The page of all runs: each is on it, however many there are, and whatever they measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ftlib.report.runs_page import page_text
from ftlib.report.runs_plot import axes_of, front_of, pareto_figure
from tests.ftlib.tracking.test_run_index import facts


@pytest.mark.parametrize("equal", [True, False])
def test_every_run_has_its_row(equal: bool) -> None:
    values = [(0.5, 0.5) if equal else (i / 1500, (i * 7 % 1500) / 1500) for i in range(1500)]
    found = [facts(i + 1, home=home, old=old) for i, (home, old) in enumerate(values)]
    page = page_text(found, "work")
    assert re.findall(r">tiny#(\d+)</td>", page) == [str(i + 1) for i in range(1500)]
    assert "http-equiv" not in page
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]+"', page)  # it needs no other file


@pytest.mark.parametrize("beaten", [20, 1100])
def test_every_number_is_a_dot_once_and_many_are_one_image(tmp_path: Path, beaten: int) -> None:
    found = [facts(i + 1, home=i // 2 / 20, old=1 - i // 2 / 20) for i in range(20)]
    found += [facts(100 + i, home=-1 - i / 10, old=-2.0) for i in range(beaten)]
    axes = axes_of(found)
    assert axes is not None
    svg = pareto_figure(tmp_path, found, axes, front_of(found, axes)).svg
    front, others = (len(re.findall(f"<use [^>]*stroke: {edge}", svg)) for edge in ("#ffffff", "#ffffff; stroke-op"))
    assert (front - others, others, "<image" in svg) == ((10, 20, False) if beaten == 20 else (10, 0, True))
