"""The table of predicted and measured memory."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from benchmarks.memory_page import PAGE, Held, append, page, read, table
from benchmarks.memory_table import OPTIMIZERS, TUNINGS
from ftlib.extensions import kind_of
from ftlib.training.optimizers import Optimizer
from ftlib.training.tuning import tunings


def held(tuning: str, optimizer: str, predicted: int, measured: int) -> Held:
    return Held(tuning, optimizer, predicted, measured, "2026-11-28T10:00:00+00:00", "2.13.0")


def test_the_page_holds_the_table_of_what_is_recorded() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, read()) == text


def test_every_tuning_that_takes_steps_is_measured_by_every_optimiser_and_predicted_within_a_tenth() -> None:
    records = read()
    pairs = [(one.tuning, one.optimizer) for one in records]
    assert sorted(pairs) == sorted((tuning, optimizer) for tuning in TUNINGS for optimizer in OPTIMIZERS)
    assert [*OPTIMIZERS] == [kind_of(member) for member in get_args(get_args(Optimizer)[0])]
    assert {tuning["kind"] for tuning in TUNINGS.values()} == {*tunings(lambda tuning: tuning.takes_steps)}
    off = {pair: one.off for pair, one in zip(pairs, records, strict=True) if one.measured}
    assert {pair: share for pair, share in off.items() if abs(share) > 0.1} == {}


def test_the_last_record_of_a_case_counts_and_the_table_says_by_how_much_it_is_off(tmp_path: Path) -> None:
    file = tmp_path / "memory.jsonl"
    assert read(file) == []
    for one in (held("full", "adamw", 500, 1000), held("full", "sgd", 104, 100), held("LoRA", "sgd", 5_000_000, 4)):
        append(one, file)
    append(held("full", "adamw", 90_000_000, 100_000_000), file)
    append(held("LoRA", "sgd", 51_000_000, 50_000_000), file)
    append(held("IA3", "adamw", 0, 0), file)
    assert table(read(file)).splitlines() == [
        "| MB | adamw | sgd |",
        "|---|---:|---:|",
        "| full | 100 -10.0% | 0 +4.0% |",
        "| LoRA |  | 50 +2.0% |",
        "| IA3 | refused |  |",
    ]
    assert "3 of 3 predictions are within 10 %" in page(PAGE.read_text(encoding="utf-8"), read(file))
