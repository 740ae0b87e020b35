"""One seed of one row: its arms are trained by `reglage run`, and their numbers read from the run's record.

Arms of a script are measured in a process of their own. A seed that takes longer than an hour has failed. What failed
because of the machine is no result (`MachineFailed`): the seed is run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.evidence.points import Measured, Point
from benchmarks.evidence.row import Arm, Row
from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import same_for_all
from ftlib.config import Config
from ftlib.errors import Interrupted, TransientError
from ftlib.fingerprint import digest, file_digest, identify
from ftlib.origin import origin
from ftlib.recipe.file import load_recipe

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]
LONGEST = 3600.0
"""Seconds of one seed of a row."""
_BY_MACHINE = (TransientError.exit_code, Interrupted.exit_code)


class MachineFailed(Exception):
    """A server that did not start, a process that was killed: it says nothing about the technique."""


class Trial(Config):
    """What came out of one seed of a row."""

    row: str
    digest: str
    """Of what was measured: a result of other arms is no result of this row."""
    sources: str | None = None
    """Of what stood behind the arms, as `sources_of` says; null in results that were made before it was kept."""
    seed: int
    larger: bool = False
    arms: dict[str, dict[str, float]] = {}
    """Metrics by arm."""
    points: tuple[Point, ...] = ()
    """What a script saw one by one, for the row's `fit`."""
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
    trials = [Trial.model_validate_json(text) for text in texts]
    trials = [trial for trial in trials if trial.digest == row.digest(larger=trial.larger)]
    now = sources_of(row) if any(trial.sources for trial in trials) else None
    return [trial for trial in trials if trial.sources in (None, now)]


def sources_of(row: Row) -> str:
    """Return the digest of the recipes that a row's arms name, as they are read, and of the file of its script."""
    recipes = sorted({arm.recipe for arm in row.arms.values() if arm.recipe is not None})
    told: list[object] = [identify(load_recipe(ROOT / recipe)) for recipe in recipes]
    if row.measure is not None:
        found = find_spec(row.measure.partition(":")[0])
        assert found is not None
        assert found.origin is not None
        told.append(file_digest(Path(found.origin)))
    return digest(told)


def commit_of_code() -> str:
    """Return the commit, with `-dirty` behind it if anything but results and their page differs from it."""
    commit = origin().commit.removesuffix("-dirty")
    made = [f":(exclude){RESULTS.relative_to(ROOT)}", ":(exclude)docs/evidence.md", ":(exclude)docs/images/evidence-*"]
    asked = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", *made]
    changed = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    return f"{commit}-dirty" if changed.returncode or changed.stdout.strip() else commit


def run_trial(row: Row, seed: int, work: Path, *, larger: bool = False, threads: int | None = None) -> Trial:
    """Train and measure all arms of a row with a seed; arms of one recipe share its run. A failure is a result too.

    With `threads` a recipe's run trains in its own process, with so many; None: as the recipe says. Raises
    MachineFailed for what is no result.
    """
    began = time.monotonic()
    arms: dict[str, dict[str, float]] = {}
    points: tuple[Point, ...] = ()
    failed = None
    try:
        if row.measure is not None:
            arms, points = scripted(row, seed, work, larger=larger)
        arms |= _from_recipes(row, seed, work, began + LONGEST, larger=larger, threads=threads)
        for name, arm in row.arms.items():
            if arm.mean_of:
                parts = [arms[one] for one in arm.mean_of]
                arms[name] = {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
    except subprocess.TimeoutExpired:
        failed, arms, points = f"it took longer than {LONGEST:g} s", {}, ()
    except (RuntimeError, KeyError) as error:
        failed, arms, points = str(error), {}, ()
    return Trial(
        row=row.name,
        digest=row.digest(larger=larger),
        sources=sources_of(row),
        seed=seed,
        larger=larger,
        arms=arms,
        points=points,
        failed=failed,
        seconds=round(time.monotonic() - began, 1),
        commit=commit_of_code(),
        machine=describe_machine(),
    )


def _from_recipes(
    row: Row, seed: int, work: Path, until: float, *, larger: bool, threads: int | None
) -> dict[str, dict[str, float]]:
    """Return the metrics of the arms that recipes train; `until` is on the monotonic clock."""
    records: dict[tuple[object, ...], dict[str, Any]] = {}
    arms: dict[str, dict[str, float]] = {}
    for name, arm in row.arms.items():
        if arm.recipe is not None:
            overrides = (*arm.overrides, *((*row.larger, *arm.larger) if larger else ()))
            asked = (arm.recipe, overrides)
            if asked not in records:
                if threads is not None:
                    overrides += ("compute.workers=0", f"compute.threads={threads}")
                records[asked] = ran(arm.recipe, overrides, seed, work, longest=max(1.0, until - time.monotonic()))
            arms[name] = measured(records[asked], arm, row.metrics_of(name))
    return arms


def scripted(
    row: Row, seed: int, work: Path, *, larger: bool = False
) -> tuple[dict[str, dict[str, float]], tuple[Point, ...]]:
    """Return what a row's `measure` says of its arms, and its points.

    Raises RuntimeError, KeyError, TimeoutExpired, MachineFailed.
    """
    task = {"measure": row.measure, "seed": seed, "work": str(work), "settings": row.settings, "larger": larger}
    with tempfile.TemporaryDirectory() as folder:
        given, returned = Path(folder) / "task.json", Path(folder) / "outcome.json"
        given.write_text(json.dumps(task), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.evidence.measure", str(given), str(returned)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=_environment(1),
            stdout=sys.stderr,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LONGEST,
        )
        if done.returncode:
            raise _failure(done.returncode, done.stderr)
        told = Measured.model_validate_json(returned.read_text("utf-8"))
    wanted = [name for name, arm in row.arms.items() if arm.by_script]
    for name in wanted:
        if absent := sorted(row.metrics_of(name) - {*told.arms.get(name, {})}):
            raise KeyError(f"{row.measure} says nothing of {', '.join(absent)} of {name!r}")
    return {name: told.arms[name] for name in wanted}, told.points


def _environment(threads: int | None) -> dict[str, str]:
    """Return what a process is started with; no number of threads: it sets its own."""
    environment = {**os.environ, **same_for_all(threads or cores())}
    if threads is None:
        environment.pop("OMP_NUM_THREADS")
    return environment


def ran(
    recipe: str, overrides: tuple[str, ...], seed: int, work: Path, *, longest: float | None = None
) -> dict[str, Any]:
    """Run a recipe into the work folder; what is done there already is not done again.

    Raises RuntimeError with what the run said, TimeoutExpired past `longest` seconds, MachineFailed.
    """
    registry = f"publish.to={{kind: folder, path: {work / 'registry'}}}"
    command = [sys.executable, "-m", "ftlib", "run", recipe, "--work", str(work), "--json"]
    command += [f"--set={change}" for change in (*overrides, registry, f"seed={seed}")]
    done = subprocess.run(command, cwd=ROOT, env=_environment(None), capture_output=True, text=True, timeout=longest)
    if not done.stdout.strip():
        raise _failure(done.returncode, done.stderr)
    told = json.loads(done.stdout)
    if "error" in told:
        raise _failure(told["error"]["exit_code"], told["error"]["message"])
    name = told["name"]
    return json.loads((work / "runs" / name / "run.json").read_text("utf-8"))


def _failure(code: int, words: str) -> Exception:
    """Return what a process's end is: its last line, of the technique; or MachineFailed, which a signal is too."""
    last = words.strip().splitlines()[-1] if words.strip() else f"it ended with {code} and said nothing"
    return MachineFailed(last) if code < 0 or code in _BY_MACHINE else RuntimeError(last)


def measured(record: dict[str, Any], arm: Arm, metrics: set[str]) -> dict[str, float]:
    """Return an arm's metrics from a run's record. Raises KeyError where it was not measured.

    `films/pair_accuracy[gap=below 1]` is a metric of one slice; `checkpoint/...` are what the record says of the
    checkpoint itself, its `trained_parameters` and its facts; `principles/kept_1` is the share of answers to held-out
    prompts that keep the first principle a phase learnt by: of the phase what it said in the end, of `base` what was
    said before the phase; `pairs/kl_to_start` is how far the candidate moved, where the recipe's rule asks that.
    """
    evidence = record["evidence"]
    who = evidence["selection"]["chosen"]["name"] if arm.candidate == "chosen" else arm.candidate
    reports = evidence["final"] if arm.split == "test" else evidence["sweep"]
    values: dict[str, float] = {}
    for cell in (cell for report in reports for cell in report["measured"]):
        if cell["candidate"] == who and cell["split"] == arm.split:
            told = {"": cell["metrics"], **{f"[{name}]": of["metrics"] for name, of in cell.get("slices", {}).items()}}
            for where, metrics_there in told.items():
                for metric, estimate in metrics_there.items():
                    values[f"{cell['evaluation']}/{metric}{where}"] = estimate["value"]
    ends = evidence.get("checkpoints", ())
    if kl := evidence.get("selection", {}).get("kl"):
        point = "alpha=1" if ends and ends[-1]["phase"] == who else who
        moved = {one["candidate"]: one["kl"]["value"] for one in kl["moved"]}
        values |= {f"{kl['evaluation']}/kl_to_start": moved[point]} if point in moved else {}
    for end in ends:
        if end["phase"] == who:
            told = {**end["facts"], "trained_parameters": end["trained_parameters"]}
            values |= {f"checkpoint/{name}": fact for name, fact in told.items() if not isinstance(fact, str)}
    for held in evidence.get("upheld", ()):
        when = "after" if held["phase"] == who else "before"
        if when == "after" or who == "base":
            kept = enumerate((one[when] for one in held["principles"]), 1)
            values |= {f"principles/kept_{at}": one["kept"] / one["answers"] for at, one in kept if one["answers"]}
    if absent := sorted(metrics - {*values}):
        raise KeyError(f"{who!r} has no {', '.join(absent)} on the {arm.split} split")
    return {metric: values[metric] for metric in sorted(metrics)}
