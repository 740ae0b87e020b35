"""Rows per second of a core, and what becomes of bad rows: `python -m benchmarks.ingest_readers`.

The same clean and dirty file for every reader, one thread each. duckdb and polars are no dependencies of the product:
`--with-others` installs them into a folder of the benchmark's own.
"""

from __future__ import annotations

import csv
import json
import os
import random
import string
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.machine import describe_machine
from benchmarks.readers import CSV, JSONL, LABELS
from benchmarks.rounds import fresh_process, interleaved, print_result, print_table

OTHERS = ("duckdb==2.0.0", "polars==2.1.0")
BAD = {"broken": 70, "missing": 48, "null": 33, "wrong_type": 41}
"""192 rows that are not what they should be, by kind."""


def make_rows(count: int) -> list[dict[str, Any]]:
    """Return rows of some 300 bytes."""
    rng = random.Random(0)
    words = ["".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9))) for _ in range(20_000)]
    return [
        {
            "id": i,
            "text": " ".join(rng.choices(words, k=31)),
            "label": rng.choice(LABELS),
            "score": round(rng.random(), 4),
            "moment": f"2024-05-{i % 28 + 1:02}T07:08:09Z",
        }
        for i in range(count)
    ]


def spoil(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any] | bytes], set[int]]:
    """Return the rows with 192 bad ones among them (a broken one as bytes), and their lines."""
    rng = random.Random(1)
    kinds = [kind for kind, count in BAD.items() for _ in range(count)]
    places = rng.sample(range(len(rows) // 500, len(rows)), len(kinds))
    found: list[dict[str, Any] | bytes] = list(rows)
    for place, kind in zip(places, kinds, strict=True):
        row = dict(rows[place])
        if kind == "broken":
            line = json.dumps(row).encode()
            found[place] = line[:-9] if place % 2 else line.replace(b'"label"', b'"\xff"')
        elif kind == "missing":
            del row["label"]
            found[place] = row
        else:
            found[place] = {**row, "text": None} if kind == "null" else {**row, "label": 7}
    return found, {place + 1 for place in places}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any] | bytes]) -> None:
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))


def write_csv(path: Path, rows: Sequence[dict[str, Any] | bytes]) -> None:
    """Write what csv can say of the rows: a broken one has a field too few, a wrong type is an id that is no number."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("id", "text", "label", "score", "moment"))
        for row in rows:
            if isinstance(row, bytes):
                writer.writerow(("1", "a field too few"))
            elif row.get("label") == 7:
                writer.writerow(("seven", row["text"], LABELS[0], row["score"], row["moment"]))
            else:
                writer.writerow((row["id"], row["text"], row.get("label"), row["score"], row["moment"]))


def install_others(folder: Path) -> None:
    """Install duckdb and polars where only this benchmark finds them."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), *OTHERS]
    subprocess.run(words, check=True)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH", "."), str(folder))))
    os.environ["POLARS_MAX_THREADS"] = "1"


def fate(outcome: dict[str, Any], bad: set[int], rows: int) -> str:
    """Say what became of the bad rows."""
    if "failed" in outcome:
        return f"the whole file fails: {outcome['failed']}"
    refused = outcome["refused"]
    named = len(set(refused) & bad) if refused else 0
    through = outcome["rows"] - (rows - len(bad))
    if refused is not None and set(refused) - bad:
        return f"{named} named by line, {through} let through, {len(set(refused) - bad)} wrongly refused"
    return f"{named} of {len(bad)} named by line, {max(through, 0)} let through"


@click.command()
@click.option("--rows", type=int, default=200_000, show_default=True)
@click.option("--repetitions", type=int, default=3, show_default=True)
@click.option("--with-others/--without-others", default=True, show_default=True, help="duckdb and polars too.")
def main(rows: int, repetitions: int, with_others: bool) -> None:
    """Measure readers on one clean and one dirty file, as jsonl and as csv."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        clean = make_rows(rows)
        dirty, bad = spoil(clean)
        if with_others:
            install_others(folder / "others")
        ratios: dict[str, Any] = {}
        for suffix, contestants, write in ((".jsonl", JSONL, write_jsonl), (".csv", CSV, write_csv)):
            write(folder / f"clean{suffix}", clean)
            write(folder / f"dirty{suffix}", dirty)
            names = [name for name in contestants if with_others or name.split(",")[0] not in ("duckdb", "polars")]
            # csv's header is its first line.
            lines = bad if suffix == ".jsonl" else {line + 1 for line in bad}
            ratios |= measure(folder, suffix, names, lines, rows, repetitions)
        size = (folder / "clean.jsonl").stat().st_size // rows
    settings = {"rows": rows, "bytes_per_row": size, "bad_rows": len(bad), "repetitions": repetitions}
    print_result("ingest_readers", ratios, {**settings, **describe_machine()})


def measure(
    folder: Path, suffix: str, names: Sequence[str], bad: set[int], rows: int, repetitions: int
) -> dict[str, Any]:
    def run(name: str, repetition: int) -> dict[str, Any]:
        task = {"contestant": name, "path": str(folder / f"clean{suffix}")}
        return fresh_process("benchmarks.readers", task, threads=1)

    found = interleaved(names, repetitions, run)
    speed = {name: round(rows / median(o["cpu_seconds"] for o in outcomes)) for name, outcomes in found.items()}
    fates: dict[str, str] = {}
    for name in names:
        task = {"contestant": name, "path": str(folder / f"dirty{suffix}")}
        fates[name] = fate(fresh_process("benchmarks.readers", task, threads=1), bad, rows)
    print_table(
        f"{suffix[1:]}: {rows} rows, one thread",
        ("", "rows/s of a core", "of the 192 bad rows"),
        [[name, f"{speed[name]:,}", fates[name]] for name in names],
    )
    kind = suffix[1:]
    return {f"{kind}_rows_per_core_second": speed, f"{kind}_bad_rows": fates}


if __name__ == "__main__":
    main()
