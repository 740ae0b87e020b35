"""Rows beyond one machine's memory: seconds and peak memory of workers and driver, as rows grow.

`python -m benchmarks.many_rows --rows 100000 --rows 1000000 --workers 2`. Time should grow as the rows do, a
worker should stay within `compute.data_worker_memory_mb`, and the driver should grow by the bytes a row that
docs/many-rows.md names. Needs Linux, whose kernel says what a process holds.

Ten million rows of 300 bytes: `python -m benchmarks.many_rows --rows 10000000 --workers 2 --no-alone`.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import click

from benchmarks.machine import describe_machine
from benchmarks.rounds import fresh_process, print_result, print_table
from ftlib.data.dataset import Dataset
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.testing import tiny_classifier
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

STAGES = ("ingest", "preprocess")
_WORDS = 5000
_TEXT = 240
"""Characters, of a row of 300 bytes."""
_LOOKS_SECONDS = 0.1


def write_rows(path: Path, rows: int) -> None:
    """Write distinct rows of 300 bytes, one in fifty an edit of an earlier one, without holding them."""
    rng = random.Random(7)
    words = [
        "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randrange(3, 11))) for _ in range(_WORDS)
    ]
    with path.open("w") as file:
        for i in range(rows):
            key = i if rng.random() > 0.02 else rng.randrange(i + 1)
            text = " ".join(rng.choices(words, k=36))[:_TEXT]
            file.write(f'{{"id": {key}, "at": {i}, "label": "l{i % 5}", "text": "{text}"}}\n')


def dataset(path: Path, *, near: bool) -> Dataset:
    return Dataset.model_validate(
        {
            "source": {"kind": "files", "path": str(path)},
            "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 64},
            "key": "id",
            "updated": "at",
            "cleaning": {"near_duplicates": 0.8 if near else None},
        }
    )


def run_stages(task: dict[str, Any]) -> dict[str, Any]:
    """Run both stages in this process, or on its Ray, and return what each took."""
    from ftlib.on_ray.session import session

    compute = Compute(data_workers=task["workers"], data_worker_memory_mb=task["memory_mb"])
    rows, work = dataset(Path(task["path"]), near=task["near"]), Workspace(Path(task["work"]))
    model = find_model(ModelRef(path=task["model"]))
    found: dict[str, Any] = {}
    with session(compute) if task["workers"] else nullcontext(), Peaks() as peaks:
        job = IngestJob(
            name="rows", source=rows.source, files=rows.source.pin(), limits=rows.limits, key="id", updated="at",
            compute=compute,
        )  # fmt: skip
        raw = found["ingest"] = peaks.during(lambda: ingest(job, work))
        told: dict[str, Any] = {
            "raw": raw["made"],
            "dataset": rows,
            "model": model,
            "tokenizer": model.tokenizer,
            "trains": True,
        }
        prepare = PreprocessJob(name="rows", compute=compute, **told)
        found["preprocess"] = peaks.during(lambda: preprocess(prepare, work))
    return {stage: {**of, "made": of["made"].content} for stage, of in found.items()}


class Peaks:
    """Looks at what this process and its Ray workers hold, without what they share."""

    def __enter__(self) -> Peaks:
        self._over, self.driver, self.worker = threading.Event(), 0.0, 0.0
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def during(self, stage: Any) -> dict[str, Any]:
        """Run a stage; return what it made, its seconds, and the memory in MB that was held meanwhile."""
        before, began = held_mb(Path("/proc/self")), time.perf_counter()
        self.driver = self.worker = 0.0
        made = stage()
        seconds = time.perf_counter() - began
        return {"made": made, "seconds": seconds, "driver_mb": self.driver - before, "worker_mb": self.worker}

    def _look(self) -> None:
        while not self._over.wait(_LOOKS_SECONDS):
            self.driver = max(self.driver, held_mb(Path("/proc/self")))
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if process.joinpath("cmdline").read_bytes().startswith(b"ray::Map"):
                        self.worker = max(self.worker, held_mb(process))


def held_mb(process: Path) -> float:
    """Return a process's resident memory without what it shares with others."""
    fields = dict(line.split(":", 1) for line in process.joinpath("status").read_text().splitlines() if ":" in line)
    return (int(fields["VmRSS"].split()[0]) - int(fields["RssShmem"].split()[0])) / 1024


@click.command()
@click.option("--rows", type=int, multiple=True, default=(100_000, 300_000), show_default=True)
@click.option("--workers", type=int, default=2, show_default=True, help="compute.data_workers.")
@click.option("--memory-mb", type=int, default=1024, show_default=True, help="compute.data_worker_memory_mb.")
@click.option("--near/--no-near", default=False, show_default=True, help="Look for near copies, too.")
@click.option("--alone/--no-alone", default=True, show_default=True, help="Measure one process beside them.")
@click.option(
    "--scratch", type=click.Path(path_type=Path), default=None, help="Where rows are written; 3 x their size."
)
def main(rows: tuple[int, ...], workers: int, memory_mb: int, near: bool, alone: bool, scratch: Path | None) -> None:
    """Measure ingest and preprocess on growing numbers of rows."""
    table, ratios = [], {}
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as kept:
        folder = Path(kept)
        model = tiny_classifier(folder / "model")
        for count in rows:
            write_rows(path := folder / f"{count}.jsonl", count)
            told = {"path": str(path), "model": str(model), "memory_mb": memory_mb, "near": near}
            runs = {
                n: fresh_process(
                    "benchmarks.many_rows", {**told, "workers": n, "work": str(folder / f"w{n}-{count}")}, threads=1
                )
                for n in ((0, workers) if alone else (workers,))
            }
            assert len({json.dumps([run[stage]["made"] for stage in STAGES]) for run in runs.values()}) == 1
            for stage in STAGES:
                of = runs[workers][stage]
                seconds = of["seconds"]
                growth = seconds / count / first.setdefault(stage, seconds / count)
                ratio = seconds / runs[0][stage]["seconds"] if alone else float("nan")
                ratios[f"{stage}_{count}_seconds_a_row_growth"] = round(growth, 2)
                ratios[f"{stage}_{count}_worker_mb"] = round(of["worker_mb"])
                ratios[f"{stage}_{count}_driver_mb"] = round(of["driver_mb"])
                table.append(
                    [
                        f"{count:,}",
                        stage,
                        f"{seconds:.1f}",
                        f"{growth:.2f}",
                        f"{of['worker_mb']:.0f}",
                        f"{of['driver_mb']:.0f}",
                        f"{ratio:.2f}",
                    ]
                )
            path.unlink()
    heads = ("rows", "stage", "seconds", "a row, times", "worker MB", "driver MB grown", "of one process")
    print_table(f"rows of 300 bytes, {workers} workers of {memory_mb} MB", heads, table)
    print_result("many_rows", ratios, {"rows": list(rows), "workers": workers, **describe_machine()})


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith("task.json"):
        Path(sys.argv[2]).write_text(json.dumps(run_stages(json.loads(Path(sys.argv[1]).read_text()))))
    else:
        main()
