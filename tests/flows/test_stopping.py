"""A run that is stopped: it ends, says one line, leaves no process and nothing half-made, and can go on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ftlib.workspace import exclusive

pytestmark = pytest.mark.prefect

LONG = ["--set", "phases.tune.optimizer.epochs=100000"]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """A test that fails leaves a training of 100,000 epochs, and its Ray: they end with it."""
    yield
    for process in marked(f"reglage-test-{os.getpid()}-"):
        with suppress(ProcessLookupError):
            os.kill(int(process.name), signal.SIGKILL)


def start(recipe: Path, work: Path, *more: str) -> tuple[subprocess.Popen[str], str]:
    """Start a run whose processes can be told from all others by a word in their environment."""
    mark = f"reglage-test-{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.command_line.main", "run", str(recipe), "--work", str(work), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "REGLAGE_TEST_MARK": mark},
    )
    return process, mark


def marked(mark: str) -> list[Path]:
    """Return the folders in /proc of the processes whose mark begins so."""
    found: list[Path] = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if f"REGLAGE_TEST_MARK={mark}".encode() in environment.read_bytes():
                found.append(environment.parent)
    return found


def alive(mark: str) -> list[str]:
    found: list[str] = []
    for process in marked(mark):
        with suppress(OSError):
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def wait_until(true: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def is_training(work: Path) -> bool:
    """A phase is going on: its unfinished folder has curves."""
    return any(path.stat().st_size for path in (work / "stages" / "train").glob("*.work/curves.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_with_130_and_one_line(tiny_recipe: Path, tmp_path: Path, number: signal.Signals):
    process, mark = start(tiny_recipe, tmp_path, *LONG)
    wait_until(lambda: is_training(tmp_path))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert [line for line in errors.splitlines() if line.startswith("reglage: stopped")] == [
        "reglage: stopped; run the same command again to go on from where it was"
    ]
    assert "Traceback" not in errors
    wait_until(lambda: not alive(mark), seconds=10)
    records = list((tmp_path / "stages" / "train").glob("*/artifact.json"))
    assert [json.loads(record.read_text())["phase"] for record in records] == ["probe"]


@pytest.mark.slow
def test_killed_hard_it_leaves_no_process_and_a_run_that_can_be_started_again(tiny_recipe: Path, tmp_path: Path):
    process, mark = start(tiny_recipe, tmp_path, *LONG)
    wait_until(lambda: is_training(tmp_path))
    assert len(alive(mark)) > 1  # the Prefect server is a process of its own
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not alive(mark), seconds=30)
    again, _ = start(tiny_recipe, tmp_path, "--json")
    out, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    steps = {step["stage"]: step["done_before"] for step in json.loads(out)["steps"]}
    assert (steps["train probe"], steps["train tune"]) == (True, False)


def test_the_same_run_twice_at_once(tiny_recipe: Path, tmp_path: Path):
    with exclusive(tmp_path / "runs" / "tiny.lock", wait=False):
        process, mark = start(tiny_recipe, tmp_path)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 7
    (line,) = errors.splitlines()
    assert f"tiny is already running: process {os.getpid()}" in line
    assert not alive(mark)


@pytest.mark.slow
@pytest.mark.ray
def test_killed_hard_alone_nothing_outlives_it(tiny_recipe: Path, tmp_path: Path):
    """Neither the server nor any of Ray's processes; docs/cli.md says after how many seconds."""
    process, mark = start(
        tiny_recipe, tmp_path, *LONG, "--set", "compute={workers: 1, threads: 1, checkpoint_seconds: 5}"
    )
    wait_until(lambda: is_training(tmp_path), seconds=300)
    assert any("raylet" in one for one in alive(mark))
    process.kill()
    process.wait()
    wait_until(lambda: not alive(mark), seconds=60)
    process.communicate(timeout=60)


@pytest.mark.slow
@pytest.mark.ray
def test_ctrl_c_ends_several_ray_workers_and_the_next_run_goes_on(tiny_recipe: Path, tmp_path: Path):
    sharded = "compute={workers: 2, threads: 1, sharding: fsdp, checkpoint_seconds: 3600}"
    more = ["--set", "phases.tune.optimizer.epochs=100", "--set", sharded]
    process, mark = start(tiny_recipe, tmp_path, *more)
    wait_until(lambda: is_training(tmp_path), seconds=300)
    assert sum("RayTrainWorker" in one for one in alive(mark)) == 2
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    said = [line for line in errors.splitlines() if line.startswith("reglage:")]
    assert said == ["reglage: stopped; run the same command again to go on from where it was"]
    wait_until(lambda: not alive(mark), seconds=60)
    again, _ = start(tiny_recipe, tmp_path, *more, "--json")
    _, errors = again.communicate(timeout=600)
    assert again.returncode == 0, errors
    records = [json.loads(file.read_text()) for file in (tmp_path / "stages" / "train").glob("*/artifact.json")]
    (tuned,) = [record for record in records if record["phase"] == "tune"]
    assert tuned["facts"]["world_size"] == 2
    assert tuned["facts"]["resumed_from_step"] > 0
