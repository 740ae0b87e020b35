"""The table of what a choice of alpha costs: the page says what the record holds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).parents[2]
RULES = ("smoothed", "plain", "dawin", "fixed 0.5", "alpha 1")
METRICS = ("accuracy", "macro_f1", "log_loss")


def records() -> dict[int, dict[str, Any]]:
    """Each record by the rows that a choice was made on."""
    lines = (ROOT / "benchmarks" / "baselines" / "selection_regret.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["rows"]: record for record in map(json.loads, lines)}


def costs(record: dict[str, Any], rule: str, metric: str, corpus: str | None = None) -> str:
    """Return the mean of all fine-tunes, in points or hundredths of a nat."""
    of = [one for one in record["regrets"] if one["metric"] == metric and corpus in (None, one["corpus"])]
    return f"{100 * fmean(one['regret'][rule]['mean'] for one in of):.2f}"


def test_the_page_holds_the_table_of_what_is_recorded() -> None:
    record = records()[271]
    rows: list[str] = []
    for corpus in ("documents", "ratings", "digits"):
        for metric in METRICS:
            both = [one for one in record["regrets"] if (one["corpus"], one["metric"]) == (corpus, metric)]
            assert [one["tuning"] for one in both] == ["gentle", "strong"]
            more = 100 * fmean(one["smoothed_minus_plain"]["mean"] for one in both)
            # The error of a mean of two, as if their draws had nothing in common.
            error = 100 * math.hypot(*(one["smoothed_minus_plain"]["error"] for one in both)) / len(both)
            cells = [costs(record, rule, metric, corpus) for rule in RULES]
            rows.append(f"| {corpus} | {metric.replace('_', ' ')} | {' | '.join(cells)} | {more:+.2f} ± {error:.2f} |")
    table = (ROOT / "docs" / "select.md").read_text(encoding="utf-8").partition("| corpus | metric |")[2]
    assert table.partition("\n\n")[0].splitlines()[2:] == rows


def test_the_words_beside_it_are_of_the_records_too() -> None:
    text = " ".join((ROOT / "docs" / "select.md").read_text(encoding="utf-8").split())
    many, few = records()[271], records()[80]
    pools = [one["pool"] for one in many["regrets"]]
    assert f"draws {many['rows']} rows {many['times']} times from pools of {min(pools):,} to {max(pools):,}" in text
    said = [f"{costs(few, 'smoothed', metric)} against {costs(few, 'plain', metric)}" for metric in METRICS]
    spelt = zip(said, ("accuracy", "macro F1", "log loss"), strict=True)
    assert f"over all corpora {', '.join(f'{pair} for {metric}' for pair, metric in spelt)}" in text
