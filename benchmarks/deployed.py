"""What a deployed run costs and how it ends: `python -m benchmarks.deployed [--rows 40000] [--runs 5]`.

`reglage up` in a folder of its own, on the loopback. Measured from outside, as a person at Prefect's page would see it:

- overhead: from the press of *Run* to Completed, less the stages' own work, fresh and with every stage done;
- cancel: pressed once in every stage; seconds until no process of the run is left, and until the page says Cancelled;
- cancel once more where the stages are jobs of a Ray cluster (a head on the loopback): what became of the jobs;
- killed: a run's processes and its worker's, by SIGKILL; seconds until the page says that it crashed;
- growth of Prefect's database by each run that finds everything done.

After every cancel it looks whether the registry is as it was. A run that was cancelled in a stage is followed by one
that goes on from there, so all stages are seen on one way through the recipe.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx

from benchmarks.machine import describe_machine
from benchmarks.rounds import print_result, print_table
from deployments.machine.processes import kill, running_flows
from ftlib.testing import tiny_classifier, tiny_rows, write_jsonl
from infra.ray_head import ray_head

T = TypeVar("T")

TARGETS = {"fresh_overhead_seconds": 25.0, "cached_overhead_seconds": 15.0}
STAGES = ("ingest", "preprocess", "train", "evaluate", "report")
PARTS = ("overhead", "cancel", "kill", "cluster")
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PATIENCE = 900.0

RECIPE = """
name: NAME
model: {path: model}
datasets:
  rows:
    source: {kind: files, path: rows.jsonl}
    format: {kind: labeled_text, text: text, label: label, max_tokens: 32}
    cleaning: {near_duplicates: 0.9}
    split: {validation: 0.45, test: 0.45}
phases:
  - {name: probe, dataset: rows, objective: {kind: classification}, tuning: {kind: linear_probe}}
  - {name: tune, dataset: rows, objective: {kind: classification}, tuning: {kind: full}}
evaluations:
  home: {dataset: rows, metrics: [{kind: accuracy}, {kind: log_loss}]}
interpolation: {kind: wise_ft}
select: {by: home/accuracy}
publish: {name: NAME}
compute: {workers: WORKERS}
"""


class Up:
    """`reglage up` in a folder, and who asks its server."""

    def __init__(self, home: Path, more: Mapping[str, str] = {}) -> None:
        """Start it; `more` are variables for it and all that it starts."""
        self.home, self.environment = home, {**os.environ, **more, "REGLAGE_HOME": str(home)}
        began = time.monotonic()
        self.command("up", "--detach")
        self.up_seconds = time.monotonic() - began
        self.url = str(json.loads(self.command("status", "--json"))["url"])
        self.api = httpx.Client(base_url=f"{self.url}/api", timeout=30.0)

    def command(self, *words: str) -> str:
        """Run `reglage` in the home; return its output. Raises CalledProcessError."""
        line = [str(Path(sys.executable).with_name("reglage")), *words]
        return subprocess.run(
            line, cwd=self.home, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout


class Installation(Up):
    """`reglage up` in a folder, with two recipes: one of many rows, and one of few."""

    def __init__(self, home: Path, rows: int, epochs: int = 0) -> None:
        """Write the recipes and start it; with `epochs`, also those two of few rows and so long a training."""
        self.home = home
        tiny_classifier(home / "model")
        few, many = tiny_rows(120), different_rows(rows, seed=1)
        self.write("few", few, workers=0)
        self.write("many", many, workers=0)
        self.write("many_on_ray", many, workers=2)
        if epochs:
            self.write("few_long", few, workers=0, epochs=epochs)
            self.write("few_long_on_ray", few, workers=2, epochs=epochs)
        super().__init__(home)
        every = self.api.post("/deployments/filter", json={}).json()
        self.finetune = next(one for one in every if one["name"] == "finetune")

    def write(
        self, name: str, rows: list[dict[str, str | int]], workers: int, epochs: int = 0, compute: str = ""
    ) -> None:
        """Write a recipe below the home, and its rows; `compute` are more of its keys there."""
        (self.home / "recipes").mkdir(exist_ok=True)
        seed = len(name)  # workers are no part of what a stage makes: of one seed the training would be done
        text = RECIPE.replace("NAME", name).replace("rows.jsonl", f"{name}.jsonl").replace("WORKERS", str(workers))
        text = text.replace("compute: {", f"compute: {{{compute}") + f"seed: {seed}\n"
        if epochs:
            text = text.replace("tuning: {kind: full}", f"tuning: {{kind: full}}, optimizer: {{epochs: {epochs}}}")
            text = text.replace("compute: {", "compute: {checkpoint_seconds: 2, ")
        (self.home / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")
        write_jsonl(self.home / f"{name}.jsonl", rows)

    def press_run(self, recipe: str) -> str:
        """Start the form's deployment for a recipe; return the run's id."""
        parameters = {**self.finetune["parameters"], "recipe": f"recipes/{recipe}.yaml"}
        path = f"/deployments/{self.finetune['id']}/create_flow_run"
        answer = self.api.post(path, json={"parameters": parameters, "state": {"type": "SCHEDULED"}})
        if answer.is_error:
            raise RuntimeError(f"the run could not be started: {answer.status_code} {answer.text}")
        return answer.json()["id"]

    def press_cancel(self, run: str) -> None:
        """Do what the page's button does."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        self.api.post(f"/flow_runs/{run}/set_state", json={"state": state}).raise_for_status()

    def state(self, run: str) -> dict[str, Any]:
        """Return the run's state as its page has it."""
        return self.api.get(f"/flow_runs/{run}").json()["state"]

    def fills(self, stage: str, since: float) -> bool:
        """Say whether a run has put something into a folder of this stage since then, and is not done.

        One that was cancelled leaves its folder as it was.
        """
        making = (self.home / "work" / "stages" / stage).glob("*.work")
        with suppress(FileNotFoundError):
            return any(path.stat().st_mtime > since for at in making for path in (at, *at.rglob("*")))
        return False

    def registry(self) -> list[tuple[str, int]]:
        """Return what is published: every file of versions and aliases, with its time of change.

        Leases and probes come and go with each run.
        """
        published = (file for top in ("blobs", "models") for file in (self.home / "registry" / top).rglob("*"))
        return sorted((str(file), file.stat().st_mtime_ns) for file in published if file.is_file())

    def database_bytes(self) -> int:
        """Return the size of Prefect's database, what is not yet written back included.

        Of a copy, which the server does not wait for.
        """
        with tempfile.TemporaryDirectory() as folder:
            for file in (self.home / ".reglage" / "prefect").glob("prefect.db*"):
                if not file.name.endswith("-shm"):  # an index of the log, which whoever opens it makes anew
                    shutil.copy(file, folder)
            with closing(sqlite3.connect(Path(folder) / "prefect.db")) as database:
                return math.prod(
                    database.execute(f"pragma {word}").fetchone()[0] for word in ("page_count", "page_size")
                )


def different_rows(count: int, seed: int) -> list[dict[str, str | int]]:
    """Return tiny rows with numbers in them, else nearly all would be copies."""
    rows = tiny_rows(count, seed=seed)
    for number, row in enumerate(rows):
        row["text"] = f"{row['text']} {number} {number * 7919 % 104729} {number * 31 % 997}"
    return rows


def main() -> None:
    """Start an installation, measure, print tables and the result, stop it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000, help="of the recipe that is cancelled")
    parser.add_argument("--runs", type=int, default=5, help="that find everything done")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part alone; repeatable")
    args = parser.parse_args()
    parts = args.only or PARTS
    runs: list[dict[str, float]] = []
    sizes = [0]
    ends: list[dict[str, object]] = []
    crashed = math.nan
    with tempfile.TemporaryDirectory() as folder:
        here = Installation(Path(folder), args.rows)
        try:
            if "overhead" in parts:
                runs.append(overhead(here, "few"))
                sizes = [here.database_bytes()]
                for _ in range(args.runs):
                    runs.append(overhead(here, "few"))
                    sizes.append(here.database_bytes())
            if "cancel" in parts:
                ends += [cancelled(here, "many", stage) for stage in STAGES]
                ends.append(cancelled(here, "many_on_ray", "train"))
            if "kill" in parts:
                crashed = killed(here, "many_on_ray")
            if "cluster" in parts:
                ends += cancelled_on_cluster(here, args.rows)
        finally:
            began = time.monotonic()
            here.command("down")
            down = time.monotonic() - began
    fresh, *cached = runs or [{}]
    if runs:
        rows = [[name, *(f"{run[key]:.1f}" for key in run)] for name, run in (("fresh", fresh), ("cached", runs[-1]))]
        print_table("a deployed run", ("", *fresh), rows)
    if ends:
        print_table("cancelled", (*ends[0],), [[str(cell) for cell in end.values()] for end in ends])
    growth = (sizes[-1] - sizes[0]) / max(args.runs, 1)
    print(f"killed: Crashed after {crashed:.0f} s; database: {growth / 1e6:.1f} MB a cached run; down: {down:.1f} s")
    ratios: dict[str, Any] = {
        "fresh_overhead_seconds": round(fresh["overhead_s"], 1) if runs else None,
        "cached_overhead_seconds": round(max(run["overhead_s"] for run in cached), 1) if cached else None,
        "cancelled": ends,
        "crashed_seconds": None if math.isnan(crashed) else round(crashed, 1),
        "database_bytes_per_cached_run": round(growth),
        "up_seconds": round(here.up_seconds, 1),
        "down_seconds": round(down, 1),
    }
    print_result("deployed", ratios, {**vars(args), "targets": TARGETS, **describe_machine()})


def overhead(here: Installation, recipe: str) -> dict[str, float]:
    """Run a recipe to its end; say how long it took beside its stages' own work."""
    began = time.monotonic()
    run = here.press_run(recipe)
    state = waited("the run's end", lambda: (one := here.state(run))["type"] in ENDED and one)
    wall = time.monotonic() - began
    if state["type"] != "COMPLETED":
        raise RuntimeError(f"the run ended as {state['name']}: {state['message']}")
    record = json.loads((here.home / "work" / "runs" / recipe / "run.json").read_text())
    work = sum(step["work_seconds"] for step in record["steps"])
    return said({"wall_s": wall, "work_s": work, "overhead_s": wall - work})


def said(measured: T) -> T:
    """Print what was measured at once: a machine may be gone before the last of it."""
    print(measured, file=sys.stderr, flush=True)
    return measured


def cancelled(here: Installation, recipe: str, stage: str) -> dict[str, object]:
    """Cancel a run in a stage; say when it was over, and what it had left."""
    before, pressed = here.registry(), time.time()
    run = here.press_run(recipe)
    waited(f"stage {stage}", lambda: here.fills(stage, pressed))
    began = time.monotonic()
    here.press_cancel(run)
    waited("no process", lambda: run not in running_flows())
    gone = time.monotonic() - began
    state = waited("the run's end", lambda: (one := here.state(run))["type"] in ENDED and one)
    return said(
        {
            "stage": f"{stage} ({recipe})",
            "no process after s": round(gone, 1),
            "page after s": round(time.monotonic() - began, 1),
            "page says": state["name"],
            "registry": "as before" if here.registry() == before else "MOVED",
        }
    )


def cancelled_on_cluster(here: Installation, rows: int) -> list[dict[str, object]]:
    """Cancel a run in each of its stages that is a job of a Ray cluster; say also what became of the jobs."""
    from ray.job_submission import JobSubmissionClient

    ends: list[dict[str, object]] = []
    with ray_head() as address:
        there = f"data_workers: 1, evaluation_workers: 1, ray_address: '{address}', "
        here.write("many_on_cluster", different_rows(rows, seed=2), workers=1, compute=there)
        for stage in STAGES[:-1]:
            end = cancelled(here, "many_on_cluster", stage)
            jobs = JobSubmissionClient(address).list_jobs()
            left = sum(not job.status.is_terminal() for job in jobs)
            ends.append(said({**end, "stage": f"{stage}, a cluster's job; {len(jobs)} jobs so far, {left} left"}))
    return ends


def killed(here: Installation, recipe: str) -> float:
    """Kill a run that trains, and say after how many seconds its page says that it crashed; cancel what follows."""
    pressed = time.time()
    run = here.press_run(recipe)
    waited("stage train", lambda: here.fills("train", pressed) and running_flows().get(run))
    began = time.monotonic()
    kill(running_flows()[run])
    waited("Crashed", lambda: _crashed(here, run))
    seconds = said(time.monotonic() - began)
    here.press_cancel(run)
    return seconds


def _crashed(here: Installation, run: str) -> bool:
    """Say whether a run has been Crashed; it is run again soon after."""
    states = here.api.get("/flow_run_states/", params={"flow_run_id": run}).json()
    return any(state["type"] == "CRASHED" for state in states)


def waited(what: str, seen: Callable[[], Any]) -> Any:
    """Look every tenth of a second until something is seen, and return it. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if one := seen():
            return one
        time.sleep(0.1)
    raise TimeoutError(f"{what} was not seen within {PATIENCE:g} s")


if __name__ == "__main__":
    main()
