"""Fresh processes in interleaved rounds, medians over the rounds, and a record of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

BASELINES = Path(__file__).parent / "baselines"
_RECORDS = "benchmarks.record"


def interleaved(
    names: Sequence[str], repetitions: int, measure: Callable[[str, int], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Call `measure(name, repetition)` round by round and return each name's outcomes.

    Every round starts with another name: what drifts (heat, caches, neighbours) then hits all of them alike.
    """
    outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repetition in range(repetitions):
        shift = repetition % len(names)
        for name in [*names[shift:], *names[:shift]]:
            print(f"round {repetition + 1} of {repetitions}: {name}", file=sys.stderr, flush=True)
            outcomes[name].append(measure(name, repetition))
    return outcomes


def fresh_process(module: str, task: dict[str, Any], *, threads: int) -> dict[str, Any]:
    """Run `python -m module TASK.json OUTCOME.json` and return the outcome. Raises RuntimeError with its last words."""
    with tempfile.TemporaryDirectory() as folder:
        given, returned = Path(folder) / "task.json", Path(folder) / "outcome.json"
        given.write_text(json.dumps(task))
        done = subprocess.run(
            [sys.executable, "-m", module, str(given), str(returned)],
            env={**os.environ, **same_for_all(threads)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"{module} with {task}: {done.stderr[-2000:]}")
        return json.loads(returned.read_text())


def same_for_all(threads: int) -> dict[str, str]:
    """Return the environment every contestant gets: thread counts and idle behaviour decide CPU speed by factors."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
    }


def middle(outcomes: Sequence[dict[str, Any]], key: str) -> float:
    """Return the median of one number over the rounds."""
    return median(float(outcome[key]) for outcome in outcomes)


def spread(outcomes: Sequence[dict[str, Any]], key: str) -> str:
    """Return `lowest to highest` of one number over the rounds."""
    values = sorted(float(outcome[key]) for outcome in outcomes)
    return f"{values[0]:.1f} to {values[-1]:.1f}"


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column is words, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120, highlight=False).print(table)


def _note(context: click.Context, _: click.Parameter, given: bool) -> None:
    context.meta[_RECORDS] = given


can_record = click.option(
    "--record",
    is_flag=True,
    expose_value=False,
    callback=_note,
    help="Append the result to benchmarks/baselines, for `python -m benchmarks.fallen`.",
)
"""Lets who calls a benchmark have `print_result` keep what it prints."""


def print_result(benchmark: str, ratios: dict[str, Any], settings: dict[str, Any]) -> None:
    """Print the last line: one JSON object. With `--record` it is added to the benchmark's baselines, too."""
    record = {"benchmark": benchmark, "ratios": ratios, "settings": settings}
    print(json.dumps(record))
    context = click.get_current_context(silent=True)
    if context is not None and context.meta.get(_RECORDS):
        append(BASELINES / f"{benchmark}.jsonl", record)


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a record of today to a file of them."""
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps({"when": f"{datetime.now(UTC):%Y-%m-%d}", **record}) + "\n")
