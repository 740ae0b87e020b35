"""The command that says which figures fell, on records made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks import rounds
from benchmarks.fallen import FIGURES, main
from benchmarks.rounds import BASELINES, can_record, print_result


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


@pytest.mark.parametrize(
    ("benchmark", "ratios", "now", "fallen"),
    [
        ("evaluation", {"by_cpu_time": 0.5}, {"by_cpu_time": 0.57}, []),
        ("evaluation", {"by_cpu_time": 0.5}, {"by_cpu_time": 0.58}, ["by_cpu_time 0.5 before, 0.58 now (+16.0%)"]),
        ("train_throughput", {"over_trainer_by_cpu_time": 2.0}, {"over_trainer_by_cpu_time": 1.6}, ["over_trainer"]),
        ("train_throughput", {"over_trainer_by_cpu_time": 2.0}, {}, []),
        ("nothing_new", {"by_cpu_time": 0.5}, {"by_cpu_time": 5.0}, []),
    ],
)
def test_what_is_compared_depends_on_the_benchmark(
    tmp_path: Path, benchmark: str, ratios: dict[str, float], now: dict[str, float], fallen: list[str]
) -> None:
    before = {"benchmark": benchmark, "ratios": ratios, "settings": {"rows": 9, "cpu": "EPYC", "load_average": 1.0}}
    settings = {"rows": 9, "cpu": "EPYC", "load_average": 2.0, "torch": "3"}
    code, said = asked(tmp_path / "records", before, {**before, "ratios": now, "settings": settings})
    assert code == bool(fallen)
    assert all(words in said for words in fallen)
    assert asked(tmp_path / "records", before, {**before, "ratios": now, "settings": {**settings, "rows": 8}})[0] == 0


def test_a_result_is_recorded_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "BASELINES", tmp_path / "baselines")

    @click.command()
    @can_record
    def benchmark() -> None:
        print_result("evaluation", {"by_cpu_time": 0.5}, {"rows": 9})

    said = json.loads(CliRunner().invoke(benchmark, []).output)
    assert not (tmp_path / "baselines").exists()
    for _ in range(2):
        assert json.loads(CliRunner().invoke(benchmark, ["--record"]).output) == said
    lines = (tmp_path / "baselines" / "evaluation.jsonl").read_text().splitlines()
    assert [{**json.loads(line), "when": ""} for line in lines] == [{**said, "when": ""}] * 2
    assert CliRunner().invoke(main, [str(tmp_path / "baselines" / "evaluation.jsonl")]).exit_code == 0


@pytest.mark.parametrize("name", FIGURES)
def test_what_is_compared_can_be_recorded(name: str) -> None:
    source = (Path(rounds.__file__).parent / f"{name}.py").read_text()
    assert "@can_record" in source or "append(RECORDS" in source


def test_the_baselines_that_are_committed_did_not_fall() -> None:
    assert (BASELINES / "gpu_train.jsonl").exists()
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0, result.output
