"""Rows beyond one machine's memory: seconds and peak memory of workers and driver, as rows grow.

`python -m benchmarks.many_rows --rows 100000 --rows 1000000 --workers 2`. CPU time should grow as the rows do, a
worker should stay within `compute.data_worker_memory_mb`, and the driver should grow by the bytes a row that
docs/many-rows.md names. Needs Linux, whose kernel says what a process holds.

Ten million rows of 300 bytes: `python -m benchmarks.many_rows --rows 10000000 --workers 2 --no-alone`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import click

from benchmarks.machine import describe_machine
from benchmarks.rounds import fresh_process, print_result, print_table
from ftlib.data.dataset import Dataset
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

STAGES = ("ingest", "preprocess")
_WORDS = 5000
_TEXT = 240
"""Characters, of a row of 300 bytes."""
_LOOKS_SECONDS = 0.1
_WORKER, _OF_RAY = b"ray::Map", b"ray::"


def vocabulary() -> list[str]:
    """Return the words that rows are made of."""
    rng = random.Random(7)
    return ["".join(rng.choice(ascii_lowercase) for _ in range(rng.randrange(3, 11))) for _ in range(_WORDS)]


def write_model(folder: Path) -> Path:
    """Write a model whose tokenizer makes of a text 1.6 tokens a word: it knows all words but every tenth."""
    from transformers import BertConfig, BertModel, BertTokenizer

    letters = [*ascii_lowercase, *(f"##{letter}" for letter in ascii_lowercase)]
    known = [word for i, word in enumerate(vocabulary()) if i % 10]
    tokens = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *known])
    tokenizer = BertTokenizer(vocab={token: i for i, token in enumerate(tokens)}, model_max_length=128)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **shape)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: int) -> None:
    """Write distinct rows of 300 bytes, one in fifty an edit of an earlier one, without holding them."""
    rng, words = random.Random(8), vocabulary()
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
    """Looks at what this process and its Ray workers hold, without what they share, and at what they compute."""

    def __enter__(self) -> Peaks:
        self._over, self.driver, self.worker = threading.Event(), 0.0, 0.0
        self._computed: dict[str, float] = {}
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def during(self, stage: Any) -> dict[str, Any]:
        """Run a stage; return what it made, its seconds and CPU seconds, and the memory in MB that was held."""
        before, began, computed = held_mb(Path("/proc/self")), time.perf_counter(), self._cpu_seconds()
        self.driver = self.worker = 0.0
        made = stage()
        return {
            "made": made,
            "seconds": time.perf_counter() - began,
            "cpu_seconds": self._cpu_seconds() - computed,
            "driver_mb": self.driver - before,
            "worker_mb": self.worker,
        }

    def _cpu_seconds(self) -> float:
        return time.process_time() + sum(self._computed.values())

    def _look(self) -> None:
        while not self._over.wait(_LOOKS_SECONDS):
            self.driver = max(self.driver, held_mb(Path("/proc/self")))
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):
                    if process.joinpath("cmdline").read_bytes().startswith(_OF_RAY):
                        self._computed[process.name] = cpu_seconds(process)
                        if process.joinpath("cmdline").read_bytes().startswith(_WORKER):
                            self.worker = max(self.worker, held_mb(process))


def held_mb(process: Path) -> float:
    """Return a process's resident memory without what it shares with others."""
    fields = dict(line.split(":", 1) for line in process.joinpath("status").read_text().splitlines() if ":" in line)
    return (int(fields["VmRSS"].split()[0]) - int(fields["RssShmem"].split()[0])) / 1024


def cpu_seconds(process: Path) -> float:
    """Return what a process has computed in all its threads."""
    fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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
        model = write_model(folder / "model")
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
                seconds, cpu_seconds_a_row = of["seconds"], of["cpu_seconds"] / count
                growth = cpu_seconds_a_row / first.setdefault(stage, cpu_seconds_a_row)
                ratio = seconds / runs[0][stage]["seconds"] if alone else float("nan")
                ratios[f"{stage}_{count}_cpu_seconds_a_row_growth"] = round(growth, 2)
                ratios[f"{stage}_{count}_worker_mb"] = round(of["worker_mb"])
                ratios[f"{stage}_{count}_driver_mb"] = round(of["driver_mb"])
                table.append(
                    [
                        f"{count:,}",
                        stage,
                        f"{seconds:.1f}",
                        f"{of['cpu_seconds']:.1f}",
                        f"{growth:.2f}",
                        f"{of['worker_mb']:.0f}",
                        f"{of['driver_mb']:.0f}",
                        f"{ratio:.2f}",
                    ]
                )
            path.unlink()
    heads = ("rows", "stage", "seconds", "CPU s", "a row, times", "worker MB", "driver MB grown", "of one process")
    print_table(f"rows of 300 bytes, {workers} workers of {memory_mb} MB", heads, table)
    print_result("many_rows", ratios, {"rows": list(rows), "workers": workers, **describe_machine()})


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith("task.json"):
        Path(sys.argv[2]).write_text(json.dumps(run_stages(json.loads(Path(sys.argv[1]).read_text()))))
    else:
        main()
