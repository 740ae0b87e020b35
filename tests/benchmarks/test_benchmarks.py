"""The benchmarks' own arithmetic, and one real run of two contestants on a tiny recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.contestants import StepClock
from benchmarks.material import Material, prepare
from benchmarks.overhead import ray_worker_seconds
from benchmarks.rounds import interleaved, middle
from benchmarks.train_throughput import interval, speed_ratios
from benchmarks.workers import curve_distance
from ftlib.kinds.open_split import open_split
from ftlib.testing import tiny_classifier, tiny_rows, write_jsonl
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import global_batches

ROOT = Path(__file__).parents[2]


def test_rounds_are_interleaved_and_start_with_another_each_time() -> None:
    order: list[tuple[str, int]] = []

    def measure(name: str, repetition: int) -> dict[str, Any]:
        order.append((name, repetition))
        return {"value": len(order)}

    found = interleaved(["a", "b", "c"], 3, measure)
    assert [name for name, _ in order] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert {name: len(values) for name, values in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert middle(found["a"], "value") == 6  # of 1, 6 and 8


def test_the_clock_leaves_the_first_step_out() -> None:
    clock = StepClock()
    clock.ends, clock.cpu_ends = [100.0, 102.0, 104.0], [7.0, 15.0, 15.5]
    assert clock.rates(batch_size=32) == pytest.approx({"samples_per_second": 16.0, "samples_per_cpu_second": 64 / 8.5})


def outcome(rate: float, weights: str = "w") -> dict[str, Any]:
    rates = {"samples_per_second": rate, "loop_samples_per_second": rate, "samples_per_cpu_second": rate / 2}
    return {**rates, "wall_seconds": 1.0, "weights": weights}


def test_ratios_are_against_the_better_of_the_tuned_trainers() -> None:
    ratios = speed_ratios(
        {
            "reglage": [outcome(20.0), outcome(30.0), outcome(22.0)],
            "trainer": [outcome(11.0)] * 3,
            "trainer_tuned": [outcome(10.0)] * 3,
            "trainer_tuned_loader": [outcome(20.0)] * 3,
            "reglage_ray": [outcome(11.0), outcome(11.0), outcome(11.0, "other")],
        }
    )
    assert ratios["over_trainer"] == 2.0
    assert ratios["over_tuned_trainer"] == 1.1
    assert ratios["over_tuned_trainer_by_cpu_time"] == 2.2
    assert ratios["ray_over_in_process"] == 0.5
    assert ratios["ray_same_weights"] is False


def test_the_interval_of_a_proportion_is_the_normal_one() -> None:
    values = np.array([1.0] * 300 + [0.0] * 700)
    mean, low, high = interval(values)
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert mean == 0.3
    assert (low, high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.004)
    assert interval(np.zeros(10)) == (0.0, 0.0, 0.0)


def test_curves_of_different_length_are_no_comparison() -> None:
    assert curve_distance([1.0, 2.0], [1.0, 2.002]) == pytest.approx(1e-3)
    with pytest.raises(ValueError, match="2 and 1 steps"):
        curve_distance([1.0, 2.0], [1.0])


def test_what_ray_costs_is_what_its_phases_took_beyond_their_workers_own_time() -> None:
    phases = [{"name": "probe", "tuning": {"kind": "linear_probe"}}, {"name": "tune", "tuning": {"kind": "full"}}]
    checkpoints = [
        {"phase": "base", "seconds": 5.0, "facts": {}},
        {"phase": "probe", "seconds": 7.0, "facts": {"worker_seconds": 1.0}},
        {"phase": "tune", "seconds": 50.0, "facts": {"worker_seconds": 38.0}},
    ]

    def record(workers: int) -> dict[str, Any]:
        recipe = {"compute": {"workers": workers}, "phases": phases}
        return {"evidence": {"recipe": recipe, "checkpoints": checkpoints}}

    assert ray_worker_seconds(record(2)) == 12.0
    assert ray_worker_seconds(record(0)) == 0.0


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rows = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(240))
    phase = {"dataset": "rows", "objective": {"kind": "classification"}}
    optimizer = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 16}
    content = {
        "name": "tiny",
        "model": {"path": str(tiny_classifier(tmp_path / "model"))},
        "datasets": {
            "rows": {
                "source": {"kind": "files", "path": str(rows)},
                "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 64},
            }
        },
        "phases": [
            {"name": "probe", "tuning": {"kind": "linear_probe"}, **phase},
            {"name": "tune", "tuning": {"kind": "full"}, "optimizer": optimizer, **phase},
        ],
        "evaluations": {"rows": {"dataset": "rows", "metrics": [{"kind": "accuracy"}]}},
        "interpolation": {"kind": "wise_ft"},
        "select": {"by": "rows/accuracy"},
        "publish": {"name": "tiny"},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_everyone_gets_the_same_full_batches_and_no_validation(recipe: Path, tmp_path: Path) -> None:
    material = prepare(recipe, [], tmp_path / "work", rows=70)
    assert material.rows == 64
    assert material.steps == 8
    split = open_split(Path(material.data) / "train.arrow", material.labels)
    assert len(split) == 64
    assert {len(batch) for batch in global_batches(split.lengths, 16, 0, 0)} == {16}
    assert len(open_split(Path(material.data) / "validation.arrow", material.labels)) == 0
    assert Material.model_validate(material.model_dump(mode="json")) == material
    assert material.job(Compute(workers=0), 1).fingerprint != material.job(Compute(workers=0), 2).fingerprint


@pytest.mark.slow
def test_throughput_ends_with_one_json_line(recipe: Path, tmp_path: Path) -> None:
    arguments = ["--recipe", str(recipe), "--work", str(tmp_path / "work"), "--repetitions", "2", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.train_throughput", *arguments, "--only", "reglage", "--only", "trainer"],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["settings"]["rows"] > 0
    assert said["settings"]["steps"] == 2 * said["settings"]["rows"] // 16
    assert said["ratios"]["over_trainer"] > 0
    assert set(said["ratios"]["accuracy"]) == {"reglage", "trainer"}
