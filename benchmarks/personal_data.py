"""What looking for personal data costs at ingestion: rows a second with and without, in CPU time.

`python -m benchmarks.personal_data`. Rows have an id, a text of 280 characters and a label; `plain` ones have a
year in it, `dated` ones a date, a time and an order's number and nothing to find, `full` ones each an e-mail address
and a number that is none. The ways take turns, in one process.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.machine import describe_machine
from benchmarks.rounds import print_result, print_table
from ftlib.data.limits import Limits
from ftlib.data.personal_data import PersonalAction, PersonalData
from ftlib.data.sources.files import Files
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.workspace import Workspace

_TAILS: dict[str, str] = {
    "plain": " in the year 2024.",
    "dated": " on 2026-11-{day} at 14:32, order {n:06}",
    "full": " write to {word}{n}@example.com, order 2024-{n:08}",
}
WAYS: tuple[PersonalAction, ...] = ("ignore", "count", "redact")


def write_rows(path: Path, rows: int, kind: str) -> Path:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    with path.open("w") as stream:
        for n in range(rows):
            text = " ".join(draw.choices(words, k=60))[:260]
            text += _TAILS[kind].format(word=draw.choice(words), n=n, day=draw.randint(10, 28))
            stream.write(json.dumps({"id": f"row-{n}", "text": text, "label": draw.choice("abc")}) + "\n")
    return path


def cpu_seconds(path: Path, way: PersonalAction) -> float:
    """Return what one ingestion takes in a work folder of its own."""
    source = Files(path=str(path))
    fields: dict[str, Any] = {"source": source, "files": source.pin(), "limits": Limits(rows=1)}
    job = IngestJob(name="rows", personal_data=PersonalData(every_column=way), **fields)
    with tempfile.TemporaryDirectory() as work:
        began = time.process_time()
        ingest(job, Workspace(work))
        return time.process_time() - began


@click.command()
@click.option("--rows", type=int, default=50_000, show_default=True)
@click.option("--repetitions", type=int, default=5, show_default=True)
def main(rows: int, repetitions: int) -> None:
    """Ingest the same rows in turns, and print rows a second and the share that is left of them."""
    ratios: dict[str, dict[str, float]] = {}
    table: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in _TAILS:
            path = write_rows(Path(folder, f"{kind}.jsonl"), rows, kind)
            taken: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(repetitions):
                for way in WAYS:
                    taken[way].append(cpu_seconds(path, way))
            per_second = {way: rows / median(seconds) for way, seconds in taken.items()}
            ratios[kind] = {way: round(count / per_second["ignore"], 3) for way, count in per_second.items()}
            table += [[kind, way, f"{count:,.0f}", f"{ratios[kind][way]:.2f}"] for way, count in per_second.items()]
    print_table("ingestion", ["rows", "personal data", "rows a CPU second", "of ignore"], table)
    print_result("personal_data", ratios, {"rows": rows, "repetitions": repetitions, **describe_machine()})


if __name__ == "__main__":
    main()
