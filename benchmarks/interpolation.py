"""Merging two large checkpoints, and an alpha sweep: `python -m benchmarks.interpolation`.

Two sharded bf16 checkpoints of a Llama config with random weights are merged by raw I/O of the same bytes (the bound:
read two, write one), by us, by us reading four times as much model, and by mergekit in its own environment; every
contestant is a fresh process that times itself after its imports. Results are compared element by element.

The sweep measures 11 alphas of a small classifier against 11 plain evaluations of one loaded model: where everything
was trained, an adapter in every layer, the last two layers of six, and the head alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_machine
from benchmarks.rounds import (
    can_record,
    fresh_process,
    interleaved,
    middle,
    print_result,
    print_table,
    same_for_all,
    spread,
)

TARGETS = {
    "over_raw_io": 2.0,
    "over_mergekit": 0.35,
    "extra_anonymous_mb": 64,
    "sweep_full": 1.15,
    "sweep_lora": 1.05,
    "sweep_upper": 0.5,
    "sweep_head": 0.25,
}
PARTS = ("merge", "mergekit", "memory", "sweep")
MERGEKIT = "mergekit==0.1.5"
ALPHA = 0.3
CHUNK = 1 << 20
SHARD_BYTES = 400_000_000


@click.command()
@click.option("--work", type=click.Path(path_type=Path), default=Path("benchmark-work"), show_default=True)
@click.option("--layers", type=int, default=13, show_default=True, help="Of the Llama config; 13 are 0.8 B parameters.")
@click.option("--repetitions", type=int, default=3, show_default=True)
@click.option("--rows", type=int, default=400, show_default=True, help="Rows of one evaluation of the sweep.")
@click.option("--keep", is_flag=True, help="Keep the checkpoints for the next time.")
@click.option("--only", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS, help="Parts to measure.")
@can_record
def main(work: Path, layers: int, repetitions: int, rows: int, keep: bool, parts: tuple[str, ...]) -> None:
    """Measure merging against raw I/O and mergekit, and a sweep against plain evaluation."""
    work = work.absolute()  # mergekit takes a relative path with one slash for a name on the hub
    work.mkdir(parents=True, exist_ok=True)
    need = 3 * layers * 110_000_000 * (5 if "memory" in parts else 1)
    if shutil.disk_usage(work).free < need:
        raise click.ClickException(f"{work} needs {need / 1e9:.0f} GB free; choose another --work or fewer --layers")
    ratios: dict[str, Any] = {}
    if "merge" in parts:
        ratios |= merges(work, layers, repetitions, keep=keep, with_mergekit="mergekit" in parts)
    if "memory" in parts:
        ratios["extra_anonymous_mb_of_4_times_the_model"] = large_merge(work, 4 * layers, keep=keep)
    if "sweep" in parts:
        ratios |= sweeps(rows, repetitions)
    settings = {
        "layers": layers,
        "repetitions": repetitions,
        "alpha": ALPHA,
        "rows": rows,
        "targets": TARGETS,
        **describe_machine(),
    }
    print_result("interpolation", ratios, settings)


def merges(work: Path, layers: int, repetitions: int, *, keep: bool, with_mergekit: bool) -> dict[str, Any]:
    """Compare merges of two checkpoints."""
    ends = [str(checkpoint(work / f"m{i}-{layers}", layers, seed=i)) for i in (0, 1)]
    python = mergekit_python(work) if with_mergekit else None
    ratios = merge_ratios(merging(ends, work, python, repetitions), ends, work, python)
    for folder in (*([] if keep else ends), *work.glob("out-*")):
        shutil.rmtree(folder)
    return ratios


def large_merge(work: Path, layers: int, *, keep: bool) -> float:
    """Return the anonymous memory that merging a larger model takes."""
    ends = [str(checkpoint(work / f"m{i}-{layers}", layers, seed=i)) for i in (0, 1)]
    outcome = fresh_process(
        "benchmarks.interpolation_task", {"what": "ours", "ends": ends, "out": str(work / "out-large")}, threads=1
    )
    for folder in (*([] if keep else ends), work / "out-large"):
        shutil.rmtree(folder)
    return outcome["extra_anonymous_mb"]


def checkpoint(folder: Path, layers: int, seed: int) -> Path:
    """Write a Llama checkpoint of random bf16 weights, a shard at a time; the second is a small step from the first."""
    if (folder / "model.safetensors.index.json").is_file():
        return folder
    subprocess.run(
        [sys.executable, "-m", "benchmarks.interpolation_task", "make", str(folder), str(layers), str(seed)], check=True
    )
    return folder


def mergekit_python(work: Path) -> Path:
    """Install mergekit into an environment of its own and return its interpreter."""
    environment = work / "mergekit"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        pinned = f"torch=={version('torch')}"  # the same torch as ours: its kernels are not what is compared
        subprocess.run([str(python), "-m", "pip", "install", "-q", MERGEKIT, pinned], check=True)
    return python


def merging(ends: list[str], work: Path, python: Path | None, repetitions: int) -> dict[str, list[dict[str, Any]]]:
    """Run every contestant in interleaved rounds."""

    def measure(name: str, repetition: int) -> dict[str, Any]:
        out = work / f"out-{name}"
        shutil.rmtree(out, ignore_errors=True)
        if name == "mergekit":
            assert python is not None
            return run_mergekit(python, ends, out)
        return fresh_process("benchmarks.interpolation_task", {"what": name, "ends": ends, "out": str(out)}, threads=1)

    names = ["raw", "ours", *(["mergekit"] if python else [])]
    measure("raw", -1)  # the page cache is warm for everyone
    return interleaved(names, repetitions, measure)


def run_mergekit(python: Path, ends: list[str], out: Path) -> dict[str, Any]:
    """Merge with mergekit's own command line; its wall time is the merge's, imports left out."""
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "merge_method": "linear",
            "dtype": "bfloat16",
            "models": [
                {"model": ends[0], "parameters": {"weight": 1 - ALPHA}},
                {"model": ends[1], "parameters": {"weight": ALPHA}},
            ],
        }
        recipe, returned = Path(folder, "merge.yaml"), Path(folder, "outcome.json")
        recipe.write_text(json.dumps(config))
        script = str(Path(__file__).with_name("mergekit_task.py"))
        ended = subprocess.run(
            [str(python), script, str(recipe), str(out), str(SHARD_BYTES), str(returned)],
            env={**os.environ, **same_for_all(len(os.sched_getaffinity(0)))},
            check=False,
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise click.ClickException(f"mergekit failed:\n{ended.stderr[-2000:]}")
        return json.loads(returned.read_text())


def merge_ratios(
    outcomes: dict[str, list[dict[str, Any]]], ends: list[str], work: Path, python: Path | None
) -> dict[str, Any]:
    """Print the table and return what the claims are about."""
    rows = [
        [name, f"{middle(found, 'seconds'):.2f}", spread(found, "seconds"), f"{middle(found, 'cpu_seconds'):.2f}",
         f"{middle(found, 'extra_anonymous_mb'):.0f}"]
        for name, found in outcomes.items()
    ]  # fmt: skip
    print_table("merge", ("", "wall s", "lowest to highest", "CPU s", "extra anonymous MB"), rows)

    def ratio(one: str, other: str, key: str) -> float:
        return round(middle(outcomes[one], key) / middle(outcomes[other], key), 3)

    found: dict[str, Any] = {
        "over_raw_io": ratio("ours", "raw", "seconds"),
        "over_raw_io_by_cpu_time": ratio("ours", "raw", "cpu_seconds"),
        "extra_anonymous_mb": middle(outcomes["ours"], "extra_anonymous_mb"),
    }
    if python:
        found["over_mergekit"] = ratio("ours", "mergekit", "seconds")
        found["over_mergekit_by_cpu_time"] = ratio("ours", "mergekit", "cpu_seconds")
        found |= fresh_process(
            "benchmarks.interpolation_task",
            {"what": "compare", "ends": ends, "ours": str(work / "out-ours"), "theirs": str(work / "out-mergekit")},
            threads=1,
        )
    return found


def sweeps(rows: int, repetitions: int) -> dict[str, float]:
    """Return the time of 11 alphas over that of 11 plain evaluations, by what was trained."""

    def measure(name: str, repetition: int) -> dict[str, Any]:
        return fresh_process("benchmarks.interpolation_task", {"what": f"sweep_{name}", "rows": rows}, threads=2)

    outcomes = interleaved(["full", "lora", "upper", "head"], repetitions, measure)
    table = [
        [name, f"{middle(found, 'sweep_seconds'):.2f}", f"{middle(found, 'plain_seconds'):.2f}",
         f"{middle(found, 'ratio'):.3f}", f"{middle(found, 'ratio_by_cpu_time'):.3f}"]
        for name, found in outcomes.items()
    ]  # fmt: skip
    print_table("11 alphas", ("trained", "sweep s", "11 plain evaluations s", "ratio", "by CPU time"), table)
    keys = {"": "ratio", "_by_cpu_time": "ratio_by_cpu_time"}
    return {
        f"sweep_{name}{suffix}": round(middle(found, key), 3)
        for name, found in outcomes.items()
        for suffix, key in keys.items()
    }


class MemoryWatch:
    """The peak of this process's anonymous memory over what it was at the start."""

    def __enter__(self) -> MemoryWatch:
        self._before, self._peak, self._done = anonymous_bytes(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self._peak = max(self._peak, anonymous_bytes())

    @property
    def extra_mb(self) -> float:
        """Return the peak's growth in MB."""
        return round(max(0, self._peak - self._before) / 1e6, 1)


def anonymous_bytes() -> int:
    """Return RssAnon."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def timed() -> tuple[float, float]:
    """Return wall and CPU clocks."""
    return time.monotonic(), time.process_time()


if __name__ == "__main__":
    main()
