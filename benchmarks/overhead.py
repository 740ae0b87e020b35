"""What a run costs beside its work: `python -m benchmarks.overhead`.

Wall time of `reglage run`, from the shell's start of the process to its end, less the stages' own work; once from
nothing and once with every stage done. What a training stage spends until Ray's worker has begun, and after it has
ended, is overhead too. The parts are timed alone, in processes of their own; in a run some of them
overlap, so they add up to more than the whole.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import can_record, middle, print_result, print_table, same_for_all

TARGETS = {"fresh": 25.0, "cached": 15.0}

PARTS = {
    "imports of the command line": "import flows.command_line.main",
    "imports of Prefect and the flow": "import flows.finetune",
    "imports of torch and the model classes": "from transformers import AutoModelForSequenceClassification",
    "Prefect's server, start to stop": (
        "from pathlib import Path; from flows.prefect_server import TemporaryServer\n"
        "server = TemporaryServer(Path('server.log')); server.use(); server.wait(); server.stop()"
    ),
    "Ray, import, start and stop": (
        "from ftlib.recipe.recipe import Compute; from ftlib.on_ray.session import session\n"
        "with session(Compute()): pass"
    ),
}


@click.command()
@click.option("--recipe", type=click.Path(path_type=Path), default=Path("recipes/quickstart.yaml"), show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the recipe.")
@click.option("--repetitions", type=int, default=3, show_default=True)
@can_record
def main(recipe: Path, overrides: tuple[str, ...], repetitions: int) -> None:
    """Measure the overhead of a fresh and of a cached run."""
    fresh: list[dict[str, Any]] = []
    cached: list[dict[str, Any]] = []
    parts: dict[str, list[dict[str, Any]]] = {name: [] for name in PARTS}
    for repetition in range(repetitions):
        print(f"round {repetition + 1} of {repetitions}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            fresh.append(timed_run(recipe, overrides, Path(folder)))
            cached.append(timed_run(recipe, overrides, Path(folder)))
            for name, code in PARTS.items():
                parts[name].append({"seconds": timed([sys.executable, "-c", code], Path(folder))[0]})
    if not all(run["all_done_before"] for run in cached):
        raise click.ClickException("the second run of a workspace did work again; its overhead was not measured")
    rows = [
        [name, *(f"{middle(runs, key):.1f}" for key in ("wall_seconds", "work_seconds", "overhead_seconds"))]
        for name, runs in {"fresh run": fresh, "cached run": cached}.items()
    ]
    print_table("reglage run", ("", "wall s", "stages' own s", "overhead s"), rows)
    alone = {name: round(middle(found, "seconds"), 1) for name, found in parts.items()}
    inside = round(middle(fresh, "ray_worker_seconds"), 1)
    rows = [[name, f"{seconds:.1f}"] for name, seconds in alone.items()]
    print_table("parts, each alone", ("", "s"), [*rows, ["Ray's workers, start and end", f"{inside:.1f}"]])
    ratios = {
        "fresh_overhead_seconds": round(middle(fresh, "overhead_seconds"), 1),
        "cached_overhead_seconds": round(middle(cached, "overhead_seconds"), 1),
        "ray_worker_seconds": inside,
        "parts_seconds": alone,
    }
    settings = {
        "recipe": str(recipe),
        "overrides": list(overrides),
        "repetitions": repetitions,
        "targets": TARGETS,
        **describe_machine(),
    }
    print_result("overhead", ratios, settings)


def timed_run(recipe: Path, overrides: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Run a recipe in `folder` and say where its wall time went."""
    work = folder / "work"
    changes = [*overrides, f"publish.to={{kind: folder, path: {folder / 'registry'}}}"]
    command = [Path(sys.executable).with_name("reglage"), "run", recipe.absolute(), "--work", work, "--json"]
    wall, output = timed([*map(str, command), *(f"--set={change}" for change in changes)], folder)
    said = json.loads(output)
    record = json.loads((work / "runs" / said["name"] / "run.json").read_text())
    inside = 0.0 if said["all_done_before"] else ray_worker_seconds(record)
    stages = sum(step["work_seconds"] for step in record["steps"]) - inside
    return {
        "wall_seconds": wall,
        "work_seconds": stages,
        "overhead_seconds": wall - stages,
        "ray_worker_seconds": inside,
        "all_done_before": said["all_done_before"],
    }


def ray_worker_seconds(record: dict[str, Any]) -> float:
    """Return what training stages that ran on Ray took beyond their workers' own time: starting and ending them."""
    if not record["evidence"]["recipe"]["compute"]["workers"]:
        return 0.0
    phases = {phase["name"]: phase for phase in record["evidence"]["recipe"]["phases"]}
    return sum(
        checkpoint["seconds"] - checkpoint["facts"]["worker_seconds"]
        for checkpoint in record["evidence"]["checkpoints"]
        if checkpoint["phase"] in phases and phases[checkpoint["phase"]]["tuning"]["kind"] != "linear_probe"
    )


def timed(command: list[str], folder: Path) -> tuple[float, str]:
    """Run a command in `folder`; return its wall seconds and its output. Raises RuntimeError with its last words."""
    environment = {**os.environ, **same_for_all(cores())}
    environment.pop("OMP_NUM_THREADS")  # a run sets its own
    environment["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), *filter(None, [os.environ.get("PYTHONPATH")])])
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return wall, done.stdout


if __name__ == "__main__":
    main()
