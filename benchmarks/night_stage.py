"""What a night is played on (`benchmarks/night.py`): an installation, a server of answers, and who looks at them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from benchmarks.deployed import Up, waited
from benchmarks.reliability_arena import MARK, Process
from ftlib.registry import CHAMPION, AliasEntry, ModelRegistry
from ftlib.storage import LocalStore
from ftlib.testing import tiny_classifier, tiny_rows, write_jsonl
from infra.chromium import free_port

NAME = "night"
RECIPE = """
name: night
model: {path: model}
datasets:
  tickets:
    source: {kind: files, path: rows/}
    format: {kind: labeled_text, text: text, label: label, max_tokens: 64}
    split: {validation: 0.2, test: 0.4}
phases:
  - {name: probe, dataset: tickets, objective: {kind: classification}, tuning: {kind: linear_probe}}
  - name: tune
    dataset: tickets
    objective: {kind: classification}
    tuning: {kind: full}
    optimizer: {epochs: 5, learning_rate: 1e-3}
evaluations:
  tickets: {dataset: tickets, metrics: [{kind: accuracy}], resamples: 200}
interpolation: {kind: wise_ft, alphas: [0, 0.5, 1]}
select: {by: tickets/accuracy}
publish: {name: night}
retrain: {min_fresh_rows: 200, margin: 0.2, approval: by_hand}
monitor:
  log: {place: log}
  window_days: 1
  drift: {rows: 200, psi: 0.5, distance: 0.3}
  quality: {kind: labels, min_labels: 50, margin: 0.1}
  rollback: on_quality
compute: {workers: 0}
"""
ENDED_BADLY = {"FAILED", "CRASHED", "CANCELLED"}
EVERY_MINUTE = ("* * * * *", "--timezone", "UTC")
RAY_TRIES = 3
_AT_ONCE = 100


class Night:
    """A project's folder with everything that runs in it."""

    def __init__(self, home: Path) -> None:
        """Write a recipe, a tiny model and no rows; or find the night that was begun in this folder."""
        self.home, self.mark = home, f"night-{os.getpid()}"
        self.serving: subprocess.Popen[bytes] | None = None
        self.port, self.asked = free_port(), 0
        self.known = set[str]()
        """Runs that were over when `news` was called last."""
        self.stopped: set[str] | None = set()
        """Looks that `reglage down` stopped when the night was broken off; None while it goes on."""
        self.done = False
        """Whether the step that goes on has done what it waits to see the outcome of."""
        self.rows, self.times, self.loads = list[list[str]](), 1, [round(os.getloadavg()[0], 1)]
        """A row for each step that is behind us; how often it was begun."""
        self._memory, self._served = home / "night.json", False
        if self._memory.exists():
            return self._recall(json.loads(self._memory.read_text(encoding="utf-8")))
        tiny_classifier(home / "model")
        (home / "recipes").mkdir()
        (home / "recipes" / "night.yaml").write_text(RECIPE, encoding="utf-8")
        (home / "rows").mkdir()

    def remember(self, row: list[str]) -> None:
        """Take a step as done."""
        self.rows.append(row)
        self.loads.append(round(os.getloadavg()[0], 1))
        self.done = False
        self._write()

    def _write(self) -> None:
        told = {"rows": self.rows, "asked": self.asked, "known": [*self.known], "done": self.done, "times": self.times}
        told["loads"] = self.loads
        self._memory.write_text(json.dumps({**told, "served": self.serving is not None}), encoding="utf-8")

    def _recall(self, told: dict[str, Any]) -> None:
        self.rows, self.asked, self.known = told["rows"], told["asked"], {*told["known"]}
        self.stopped = None
        self.done, self.times, self._served = told["done"], told["times"] + 1, told["served"]
        self.loads += told["loads"]

    def go_on(self) -> None:
        """Start again what ran when the night was broken off."""
        if self.rows:
            self.come_up()
            self.stopped = {
                run["id"] for run in self.runs("monitor") + self.runs("watch") if run["state_type"] in ENDED_BADLY
            }
        if self._served:
            self.serve()

    def come_up(self) -> None:
        """Start the installation."""
        self.up = Up(self.home, {MARK: self.mark})
        os.environ["PREFECT_API_URL"] = f"{self.up.url}/api"

    def arrive(self, file: str, rows: Sequence[Any]) -> None:
        """Let a file of rows come, whole."""
        write_jsonl(self.home / f"{file}.tmp", rows)
        (self.home / f"{file}.tmp").rename(self.home / "rows" / f"{file}.jsonl")

    def history(self) -> list[AliasEntry]:
        """Return the moves of the alias."""
        return ModelRegistry(LocalStore(self.home / "registry")).history(NAME, CHAMPION)

    def meant(self) -> list[int]:
        """Return the versions that the alias has meant."""
        return [entry.version for entry in self.history()]

    def versions(self) -> list[int]:
        """Return the versions of the model."""
        return [one.version for one in ModelRegistry(LocalStore(self.home / "registry")).versions(NAME)]

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Return the runs of the model's deployment of a flow, oldest first. Raises RuntimeError if one ended badly."""
        asked = {"flows": {"name": {"any_": [flow]}}, "deployments": {"name": {"any_": [NAME]}}}
        answer = self.up.api.post("/flow_runs/filter", json={**asked, "sort": "EXPECTED_START_TIME_ASC"})
        found = [run for run in answer.raise_for_status().json() if run["state_type"] != "SCHEDULED"]
        for run in found:
            if run["state_type"] in ENDED_BADLY and self.stopped is not None and run["id"] not in self.stopped:
                raise RuntimeError(f"{flow} {run['name']} is {run['state_name']}: {run['state']['message']}")
        return found

    def news(self) -> None:
        """Remember which runs are over: what is waited for ends later."""
        runs = [run for flow in ("watch", "retrain", "monitor") for run in self.runs(flow)]
        self.known = {run["id"] for run in runs if run["state_type"] in ("COMPLETED", "PAUSED")}

    def does(self, what: Callable[[], object]) -> None:
        """Do what a step waits to see the outcome of; not again in a night that was broken off behind it."""
        if not self.done:
            self.news()
            what()
            self.done = True
            self._write()

    def new_runs(self, flow: str) -> list[dict[str, Any]]:
        """Return the runs of a flow that were not over then."""
        return [run for run in self.runs(flow) if run["id"] not in self.known]

    def wait_run(self, flow: str, state: str) -> dict[str, Any]:
        """Wait for a new run of a flow in a state of this name."""

        def seen() -> dict[str, Any] | None:
            return next((run for run in self.new_runs(flow) if run["state_name"] == state), None)

        return waited(f"{flow}: {state}", seen)

    def wait_retraining(self, state: str) -> dict[str, Any]:
        """Wait for a retraining in a state of this name, which an event started."""
        run = self.wait_run("retrain", state)
        by = (run["created_by"] or {}).get("type")
        assert by == "AUTOMATION", f"{run['name']} was started by {by}"
        return run

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name that the server has."""
        answer = self.up.api.post("/events/filter", json={"filter": {"event": {"name": [name]}}})
        return answer.raise_for_status().json()["events"]

    def serve(self) -> None:
        """Start `reglage serve` of what the alias means, and wait until it answers."""
        line = [str(Path(sys.executable).with_name("reglage")), "serve", f"{NAME}@{CHAMPION}", "--port", str(self.port)]
        line += ["--log", "log", "--log-seconds", "1", "--threads", "1"]
        for left in reversed(range(RAY_TRIES)):
            with (self.home / "serve.log").open("ab") as log:
                self.serving = subprocess.Popen(
                    line, cwd=self.home, env=self.up.environment, stdout=log, stderr=log, start_new_session=True
                )
            if waited("serve", lambda: self._answers() or self._ended()) is True:
                break
            if not left:
                raise RuntimeError(f"serve ended: {(self.home / 'serve.log').read_text()[-1500:]}")
        token = self.home / ".reglage" / "serve.token"
        self.web = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {token.read_text().strip()}"},
            timeout=60.0,
        )

    def _ended(self) -> str:
        """Say whether the process has ended: Ray gives up after 30 s on a machine with much to do."""
        assert self.serving
        return "" if self.serving.poll() is None else "ended"

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=30.0).is_success
        except httpx.HTTPError:
            return False

    def ask(self, count: int, *, words: int = 12) -> tuple[list[str], list[str], set[int]]:
        """Ask what is served so many texts; return the requests' ids, the labels and which versions answered."""
        ids, labels, versions = list[str](), list[str](), set[int]()
        self.asked += 1
        texts = [str(row["text"]) for row in tiny_rows(count, seed=1000 + self.asked, words=words)]
        for start in range(0, count, _AT_ONCE):
            answer = self.web.post("/predict", json={"inputs": texts[start : start + _AT_ONCE]})
            said = answer.raise_for_status().json()
            ids += said["request_ids"]
            labels += [one["label"] for one in said["predictions"]]
            versions |= {*said["versions"]}
        waited("the log", lambda: self.web.get("/version").json()["log"]["waiting"] == 0)
        return ids, labels, versions

    def say(self, requests: Sequence[str], labels: Sequence[str]) -> None:
        """Tell what would have been right."""
        for request, label in zip(requests, labels, strict=True):
            self.web.post("/feedback", json={"request": request, "label": label}).raise_for_status()
        waited("the labels", lambda: self.web.get("/version").json()["feedback"]["waiting"] == 0)

    def wait_served(self, version: int) -> float:
        """Wait until a version answers; return the seconds."""
        began = time.monotonic()
        waited(f"version {version}", lambda: self.web.get("/version").json()["version"] == version)
        return time.monotonic() - began

    def logged(self, version: int) -> int:
        """Return how many answers of a version the log holds."""
        lines = [line for file in (self.home / "log" / "answers").glob("*.jsonl") for line in file.open()]
        return sum(json.loads(line)["version"] == version for line in lines)

    def close(self) -> list[str]:
        """Stop all of it; return what is left 15 s later, which is killed."""
        if self.serving:
            self.serving.send_signal(signal.SIGTERM)
            self.serving.wait(60)
        if hasattr(self, "up"):
            self.up.command("down")
        return Process(self.serving.pid if self.serving else 0, self.mark).left(15.0)[0]


Step = Callable[[Night], str]
