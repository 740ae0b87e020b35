"""kill -9 of whole retrainings at random times, then the same command: nothing lost, doubled or dangling."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftlib.published.lineage import indexes_of
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.retraining.file_ledger import FileLedger, compare
from ftlib.storage import LocalStore
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

NAME = "tiny-router"
KILLS = 10
ROWS = 60


class Nightly:
    """The command as cron starts it, in a process group of its own."""

    def __init__(self, folder: Path) -> None:
        self.rows, self.work = folder / "arriving", folder / "work"
        self.path = tiny_recipe(folder)
        text = self.path.read_text().replace(f"{folder}/home.jsonl", f"{self.rows}/")
        self.path.write_text(text + "retrain: {min_fresh_rows: 50, margin: 1}\n")
        self.registry = ModelRegistry(LocalStore(folder / "registry"))
        self.arrived = 0

    def arrive(self) -> None:
        write_jsonl(self.rows / f"{self.arrived}.jsonl", tiny_rows(ROWS, seed=10 + self.arrived))
        self.arrived += 1

    def start(self) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "flows.command_line.main",
            "retrain",
            str(self.path),
            "--work",
            str(self.work),
            "--json",
        ]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def finish(self) -> dict[str, object]:
        out, errors = (process := self.start()).communicate(timeout=240)
        assert process.returncode == 0, errors
        return json.loads(out)

    def killed_after(self, seconds: float) -> bool:
        """Say whether it was still going on."""
        process = self.start()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        return process.returncode != 0

    def recipe(self) -> Recipe:
        return load_recipe(self.path)


def check(nightly: Nightly) -> None:
    """One version and one move of the alias for each file that arrived, with all its rows, and a ledger that has it."""
    registry = nightly.registry
    examined = fsck(registry, deep=True)
    assert examined.faults == ()
    assert set(examined.unreferenced) <= {path for path in examined.unreferenced if path.startswith("probes/")}
    expected = list(range(1, nightly.arrived + 1))
    versions = registry.versions(NAME)
    assert [version.version for version in versions] == expected
    assert (
        len({version.key for version in versions}) == len({version.manifest for version in versions}) == len(expected)
    )
    assert [entry.version for entry in registry.history(NAME, "champion")] == expected

    manifest = registry.manifest(versions[-1])
    assert [file["rows"] for file in manifest.lineage["data"]["home"]["files"]] == [ROWS] * nightly.arrived
    assert sum(indexes_of(versions[-1], manifest)["home"].splits.values()) == ROWS * nightly.arrived

    ledger = FileLedger(registry.store, NAME, "home")
    state = ledger.state()
    changes = compare(state, nightly.recipe().datasets["home"].source.list())
    assert (changes.nothing, len(changes.unchanged)) == (True, nightly.arrived)
    assert state.sequence == nightly.arrived


def test_retrainings_killed_at_random_times(tmp_path: Path):
    seed = int(os.environ.get("REGLAGE_TEST_SEED") or random.SystemRandom().randrange(2**32))
    print(f"REGLAGE_TEST_SEED={seed}")  # pytest shows it with a failure
    chance = random.Random(seed)
    nightly = Nightly(tmp_path)
    nightly.arrive()
    began = time.monotonic()
    assert nightly.finish()["outcome"] == "promoted"
    usual = time.monotonic() - began
    check(nightly)
    killed = 0
    nightly.arrive()
    while killed < KILLS:
        # the first third is imports; what was done is done, so later attempts reach later steps in less time
        if nightly.killed_after(chance.uniform(usual / 3, usual)):
            killed += 1
        else:
            check(nightly)
            nightly.arrive()
    nightly.finish()
    check(nightly)
    assert nightly.finish()["outcome"] == "skipped"
