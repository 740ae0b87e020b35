"""The table of predicted and measured memory."""

from __future__ import annotations

from pathlib import Path

from benchmarks.memory_page import PAGE, Held, append, page, read, table


def held(tuning: str, optimizer: str, predicted: int, measured: int) -> Held:
    return Held(tuning, optimizer, predicted, measured, "2026-11-28T10:00:00+00:00", "2.13.0")


def test_the_page_holds_the_table_of_what_is_recorded() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, read()) == text


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
