"""Ten times the rows: time and peak memory of ingestion, near-duplicate search and preprocessing.

`python -m benchmarks.ingest_scale`. Time should grow tenfold and no more, and memory by the documented bytes a row:
rows themselves are held a batch at a time. Needs Linux, whose kernel says what a process held at most.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.ingest_readers import make_rows, write_jsonl
from benchmarks.machine import describe_machine
from benchmarks.rounds import fresh_process, interleaved, print_result, print_table
from ftlib.data.dataset import Dataset
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.testing import tiny_classifier
from ftlib.workspace import Workspace

STAGES = ("ingest", "preprocess", "preprocess, near")


def dataset(path: Path, near: float | None) -> Dataset:
    return Dataset.model_validate(
        {
            "source": {"kind": "files", "path": str(path)},
            "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 64},
            "cleaning": {"near_duplicates": near},
        }
    )


def run_stage(task: dict[str, Any]) -> dict[str, Any]:
    """Run one stage in this process; what it needs is made by earlier ones and found in the workspace."""
    work, path = Workspace(Path(task["work"])), Path(task["path"])
    rows = dataset(path, 0.8 if task["stage"] == "preprocess, near" else None)
    job = IngestJob(name="rows", source=rows.source, files=rows.source.pin(), limits=rows.limits)
    small = dataset(Path(task["warm"]), rows.cleaning.near_duplicates)
    warm = ingest(IngestJob(name="warm", source=small.source, files=small.source.pin(), limits=small.limits), work)
    if task["stage"] == "ingest":
        return measured(lambda: ingest(job, work))
    raw, model = ingest(job, work), find_model(ModelRef(path=task["model"]))
    prepared = PreprocessJob(name="rows", raw=raw, dataset=rows, model=model, tokenizer=model.tokenizer, trains=True)
    preprocess(prepared.model_copy(update={"raw": warm, "dataset": small}), work)  # imports and tokenizer
    return measured(lambda: preprocess(prepared, work))


def measured(stage: Any) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far; ru_maxrss even remembers the parent's
    before, wall, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    stage()
    return {
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "grown_mb": memory_mb("VmHWM") - before,
    }


def memory_mb(kind: str) -> float:
    """Return this process's resident memory now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


@click.command()
@click.option(
    "--rows",
    type=int,
    default=50_000,
    show_default=True,
    help="The smaller of the two files; the other has ten times as many.",
)
@click.option("--repetitions", type=int, default=2, show_default=True)
def main(rows: int, repetitions: int) -> None:
    """Measure three stages on N and on 10 N rows."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = tiny_classifier(folder / "model")
        everything = make_rows(10 * rows)
        for count in (1000, rows, 10 * rows):
            write_jsonl(folder / f"{count}.jsonl", everything[:count])
        del everything
        names = [f"{stage}|{count}" for count in (rows, 10 * rows) for stage in STAGES]

        def run(name: str, repetition: int) -> dict[str, Any]:
            stage, count = name.split("|")
            work = folder / f"work-{repetition}-{count}"
            paths = {"path": str(folder / f"{count}.jsonl"), "warm": str(folder / "1000.jsonl"), "model": str(model)}
            return fresh_process("benchmarks.ingest_scale", {"stage": stage, "work": str(work), **paths}, threads=1)

        found = interleaved_by_order(names, repetitions, run)
    table, ratios = [], {}
    for stage in STAGES:
        few, many = (found[f"{stage}|{count}"] for count in (rows, 10 * rows))
        cpu = [median(o["cpu_seconds"] for o in outcomes) for outcomes in (few, many)]
        grown = [median(o["grown_mb"] for o in outcomes) for outcomes in (few, many)]
        bytes_per_row = (grown[1] - grown[0]) * 2**20 / (9 * rows)
        table.append(
            [
                stage,
                f"{rows / cpu[0]:,.0f}",
                f"{10 * rows / cpu[1]:,.0f}",
                f"{cpu[1] / cpu[0]:.1f}",
                f"{grown[0]:.0f}",
                f"{grown[1]:.0f}",
                f"{bytes_per_row:.0f}",
            ]
        )
        key = stage.replace(", ", "_")
        ratios[f"{key}_time_growth"] = round(cpu[1] / cpu[0], 2)
        ratios[f"{key}_bytes_per_row"] = round(bytes_per_row)
    print_table(
        f"{rows:,} and {10 * rows:,} rows of 310 bytes, one thread",
        ("", "rows/s of a core", "of ten times as many", "time, times", "MB grown", "of ten times", "bytes a row"),
        table,
    )
    print_result("ingest_scale", ratios, {"rows": rows, "repetitions": repetitions, **describe_machine()})


def interleaved_by_order(names: list[str], repetitions: int, run: Any) -> dict[str, list[dict[str, Any]]]:
    """Call `interleaved` once a round: within it the order stays, since a stage finds what the one before it made."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for repetition in range(repetitions):
        for name, outcomes in interleaved(names, 1, lambda name, _, r=repetition: run(name, r)).items():
            found[name] += outcomes
    return found


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith("task.json"):
        Path(sys.argv[2]).write_text(json.dumps(run_stage(json.loads(Path(sys.argv[1]).read_text()))))
    else:
        main()
