"""What `benchmarks.reliability` kills: each job is a command, what is there before it, and when it may be killed.

A job's folder holds inputs, which never change, and a state (`work`, `registry`, `answers`), of which a copy is kept:
so each kill begins where the job's own work begins. To add a job is to add an entry to `JOBS`.
"""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ftlib.testing import LABELS, tiny_recipe, tiny_rows, write_jsonl

NAME = "tiny-router"
RECIPE = "tiny.yaml"
Run = Callable[..., None]
"""Runs `reglage` with these words in the job's folder. Raises RuntimeError where it fails."""


SERVED = 18431
"""The port of `serve`."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
STAGES = "stages"
"""In place of a command: the steps of `reglage run`, each stage called as the flow's task calls it, without Prefect."""


def always(_: Path) -> bool:
    """The whole command may be killed."""
    return True


def in_stage(name: str) -> Callable[[Path], bool]:
    """Return what says whether a stage fills its folder."""
    return lambda folder: any((folder / "work" / "stages" / name).glob("*.work"))


def answering(_: Path) -> bool:
    """Say whether `serve` answers; before that somebody listens already, and knows no page."""
    try:
        with _OPENER.open(f"http://127.0.0.1:{SERVED}/health", timeout=60) as answer:
            return answer.status == 200
    except OSError:
        return False


def asked(_: Path) -> None:
    """Ask what is served, so that its log has answers. Raises OSError where it does not answer."""
    for row in tiny_rows(8, seed=3):
        body = json.dumps({"inputs": [row["text"]]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{SERVED}/predict", body)
        with _OPENER.open(request, timeout=60) as answer:
            json.loads(answer.read())["predictions"][0]


def publishing(folder: Path) -> bool:
    """Say whether the registry is begun, and its version not yet committed."""
    registry = folder / "registry"
    return registry.is_dir() and not any((registry / "models" / NAME / "versions").glob("*"))


@dataclass(frozen=True)
class Job:
    """A command that is killed, and run again."""

    words: tuple[str, ...]
    prepare: Callable[[Path, Run], None]
    """Writes inputs and state into an empty folder."""
    window: Callable[[Path], bool] = always
    """When it may be killed."""
    share: int = 1
    """How often it is drawn, beside the others."""
    lasting: Callable[[Path], None] | None = None
    """What is done with a command that does not end by itself, once it may be killed; SIGTERM is its usual end."""
    own_process: bool = False
    """Started as users start it, its imports and Prefect server of its own included; else forked from a process that
    has imported all, beside one server for all kills: a fifth of the CPU."""


def recipe(folder: Path, rows: int = 240, epochs: int = 3, more: str = "") -> None:
    """Write the tiny recipe, its model and its rows."""
    path = tiny_recipe(folder)
    write_jsonl(folder / "home.jsonl", tiny_rows(rows))
    text = path.read_text(encoding="utf-8").replace("epochs: 1", f"epochs: {epochs}")
    path.write_text(text + more, encoding="utf-8")


def _ingest(folder: Path, _: Run) -> None:
    recipe(folder, rows=4000)


def _train(folder: Path, run: Run) -> None:
    recipe(folder)
    run("plan", RECIPE, "--prepare")


def _published(folder: Path, run: Run) -> None:
    recipe(folder)
    run(STAGES, RECIPE)


def _publish(folder: Path, run: Run) -> None:
    _published(folder, run)
    shutil.rmtree(folder / "registry")


def _promote(folder: Path, run: Run) -> None:
    """Two versions, of which the first is champion."""
    _published(folder, run)
    run(STAGES, RECIPE, "phases.tune.optimizer.epochs=2")
    run("registry", "promote", f"{NAME}@1")


def _rollback(folder: Path, run: Run) -> None:
    _promote(folder, run)
    run("registry", "promote", f"{NAME}@2")


def _retrain(folder: Path, run: Run) -> None:
    """One file of rows is known and its model champion; another has arrived."""
    recipe(folder, epochs=1, more="retrain: {min_fresh_rows: 50, margin: 1}\n")
    path = folder / RECIPE
    path.write_text(path.read_text().replace(f"{folder}/home.jsonl", f"{folder}/arriving/"), encoding="utf-8")
    write_jsonl(folder / "arriving" / "0.jsonl", tiny_rows(60, seed=10))
    run("retrain", RECIPE)
    write_jsonl(folder / "arriving" / "1.jsonl", tiny_rows(60, seed=11))


def _monitor(folder: Path, run: Run) -> None:
    """The second version is champion, and all that it has answered was wrong: one look goes back, once."""
    _rollback(folder, run)
    rule = "{log: {place: answers}, quality: {kind: labels, min_labels: 50}, rollback: on_quality}"
    with (folder / RECIPE).open("a", encoding="utf-8") as file:
        file.write(f"monitor: {rule}\n")
    now = datetime.now(UTC).isoformat()
    answers = [{"request": str(i), "at": now, "name": NAME, "version": 2, "label": LABELS[0]} for i in range(300)]
    write_jsonl(folder / "answers" / "answers" / "1.jsonl", answers)
    late = [{"request": str(i), "at": now, "label": LABELS[1]} for i in range(300)]
    write_jsonl(folder / "answers" / "labels" / "1.jsonl", late)


JOBS: dict[str, Job] = {
    "ingest": Job(("plan", RECIPE, "--prepare"), _ingest, in_stage("ingest"), share=5),
    "train": Job((STAGES, RECIPE), _train, in_stage("train"), share=5),
    "publish": Job((STAGES, RECIPE), _publish, publishing, share=5),
    "promote": Job(("registry", "promote", f"{NAME}@2"), _promote, share=3),
    "rollback": Job(("registry", "rollback", NAME, "--to", "1"), _rollback, share=3),
    "retrain": Job(("retrain", RECIPE), _retrain, share=2),
    "monitor": Job(("monitor", RECIPE), _monitor, share=2),
    "serve": Job(
        ("serve", f"{NAME}@champion", "--open", "--port", str(SERVED), "--log", "answers", "--log-seconds", "0.5"),
        _rollback,
        answering,
        lasting=asked,
        own_process=True,
    ),
    "run": Job(("run", RECIPE), lambda folder, _: recipe(folder, epochs=1)),
    "run_alone": Job(("run", RECIPE), lambda folder, _: recipe(folder, epochs=1), own_process=True),
}
"""By name. `share` follows what a kill costs: with Prefect behind it, ten times as much."""


def possible() -> dict[str, Job]:
    """Return the jobs whose command there is."""
    import click

    from flows.command_line.main import main

    known = {STAGES, *main.list_commands(click.Context(main))}
    return {name: job for name, job in JOBS.items() if job.words[0] in known}
