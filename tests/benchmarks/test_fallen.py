"""The command that says which figures fell, on records made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks.fallen import main
from benchmarks.gpu_train import BASELINES


def record(speed: float, memory: float, gpu: str = "H100", **ratios: Any) -> dict[str, Any]:
    figures = {"tokens_per_second": {"reglage": speed, "trainer": 1.0}, "peak_gpu_bytes": {"reglage": memory}}
    settings = {"model": "1b", "batch_size": 16, "steps": 20, "tokens": 100, "gpu": gpu}
    return {"when": "2026-11-27", "benchmark": "gpu_train", "ratios": {**figures, **ratios}, "settings": settings}


def asked(path: Path, *records: dict[str, Any]) -> tuple[int, str]:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    result = CliRunner().invoke(main, [str(path)])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("speed", "memory", "fallen"),
    [
        (851, 1000, []),
        (849, 1000, ["tokens_per_second 1,000 before, 849 now (-15.1%)"]),
        (1000, 1009, []),
        (1000, 1011, ["peak_gpu_bytes 1,000 before, 1,011 now (+1.1%)"]),
        (2000, 500, []),
        (1, 9000, ["tokens_per_second", "peak_gpu_bytes"]),
    ],
)
def test_what_fell_is_said(tmp_path: Path, speed: float, memory: float, fallen: list[str]) -> None:
    code, said = asked(tmp_path / "records", record(500, 2000), record(1000, 1000), record(speed, memory))
    assert code == bool(fallen)
    assert len(said.splitlines()) == max(1, len(fallen))
    assert all(words in line for words, line in zip(fallen, said.splitlines(), strict=False))


def test_another_card_and_another_contestant_are_no_measure(tmp_path: Path) -> None:
    alone = record(0, 0, tokens_per_second={"trainer": 9.0}, peak_gpu_bytes={"trainer": 9.0})
    assert asked(tmp_path / "records", record(1000, 10), record(10, 1000, gpu="L40S"), alone)[0] == 0


@pytest.mark.parametrize("line", ["", "[1]", "{", '{"benchmark": "x"}', '{"settings": 1, "ratios": {}}'])
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "records").write_text(json.dumps(record(1, 1)) + f"\n{line}\n")
    result = CliRunner().invoke(main, [str(tmp_path / "records")])
    assert result.exit_code == 1
    assert "records:2 is no record of a benchmark" in result.output


def test_the_baselines_that_are_committed_did_not_fall() -> None:
    result = CliRunner().invoke(main, [str(BASELINES)])
    assert result.exit_code == 0, result.output
