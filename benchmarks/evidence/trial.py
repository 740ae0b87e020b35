"""One seed of one row: its arms are trained by `reglage run`, and their numbers read from the run's record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.evidence.row import Arm, Row
from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import same_for_all
from ftlib.config import Config
from ftlib.origin import origin

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]


class Trial(Config):
    """What came out of one seed of a row."""

    row: str
    digest: str
    """Of what was measured: a result of other arms is no result of this row."""
    seed: int
    larger: bool = False
    arms: dict[str, dict[str, float]] = {}
    """Metrics by arm."""
    failed: str | None = None
    """Why there are no numbers."""
    seconds: float
    commit: str
    machine: dict[str, object]

    def file(self, folder: Path = RESULTS) -> Path:
        """Return where it is kept."""
        return result_file(self.row, self.seed, self.larger, folder)


def result_file(row: str, seed: int, larger: bool = False, folder: Path = RESULTS) -> Path:
    """Return where the result of a row and a seed is kept."""
    return folder / row / f"{'larger-' if larger else ''}seed-{seed}.json"


def read_trials(row: Row, folder: Path = RESULTS) -> list[Trial]:
    """Return the results of a row as it stands, by seed."""
    texts = [path.read_text("utf-8") for path in sorted((folder / row.name).glob("*.json"))]
    return [trial for text in texts if (trial := Trial.model_validate_json(text)).digest == row.digest()]


def run_trial(row: Row, seed: int, work: Path, *, larger: bool = False) -> Trial:
    """Train and measure all arms of a row with a seed; arms of one recipe share its run. A failure is a result too."""
    began = time.monotonic()
    records: dict[tuple[object, ...], dict[str, Any]] = {}
    arms: dict[str, dict[str, float]] = {}
    failed = None
    try:
        for name, arm in row.arms.items():
            if arm.recipe is not None:
                asked = (arm.recipe, arm.overrides)
                extra = row.larger if larger else ()
                records[asked] = records.get(asked) or ran(arm.recipe, (*arm.overrides, *extra), seed, work)
                arms[name] = measured(records[asked], arm, {one.metric for one in row.comparisons})
        for name, arm in row.arms.items():
            if arm.mean_of:
                parts = [arms[one] for one in arm.mean_of]
                arms[name] = {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
    except (RuntimeError, KeyError) as error:
        failed, arms = str(error), {}
    return Trial(
        row=row.name,
        digest=row.digest(),
        seed=seed,
        larger=larger,
        arms=arms,
        failed=failed,
        seconds=round(time.monotonic() - began, 1),
        commit=origin().commit,
        machine=describe_machine(),
    )


def ran(recipe: str, overrides: tuple[str, ...], seed: int, work: Path) -> dict[str, Any]:
    """Run a recipe into the work folder; what is done there already is not done again. Raises RuntimeError."""
    registry = f"publish.to={{kind: folder, path: {work / 'registry'}}}"
    command = [sys.executable, "-m", "ftlib", "run", recipe, "--work", str(work), "--json"]
    command += [f"--set={change}" for change in (*overrides, registry, f"seed={seed}")]
    environment = {**os.environ, **same_for_all(cores())}
    environment.pop("OMP_NUM_THREADS")  # a run sets its own
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if not done.stdout.strip():
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no word")
    told = json.loads(done.stdout)
    if "error" in told:
        raise RuntimeError(told["error"]["message"])
    name = told["name"]
    return json.loads((work / "runs" / name / "run.json").read_text("utf-8"))


def measured(record: dict[str, Any], arm: Arm, metrics: set[str]) -> dict[str, float]:
    """Return an arm's metrics from a run's record. Raises KeyError where it was not measured.

    `checkpoint/...` are what the record says of the checkpoint itself, its `trained_parameters` and its facts.
    """
    evidence = record["evidence"]
    who = evidence["selection"]["chosen"]["name"] if arm.candidate == "chosen" else arm.candidate
    reports = evidence["final"] if arm.split == "test" else evidence["sweep"]
    values = {
        f"{cell['evaluation']}/{metric}": estimate["value"]
        for report in reports
        for cell in report["measured"]
        if cell["candidate"] == who and cell["split"] == arm.split
        for metric, estimate in cell["metrics"].items()
    }
    for end in evidence["checkpoints"]:
        if end["phase"] == who:
            told = {**end["facts"], "trained_parameters": end["trained_parameters"]}
            values |= {f"checkpoint/{name}": fact for name, fact in told.items() if not isinstance(fact, str)}
    if absent := sorted(metrics - {*values}):
        raise KeyError(f"{who!r} has no {', '.join(absent)} on the {arm.split} split")
    return {metric: values[metric] for metric in sorted(metrics)}
