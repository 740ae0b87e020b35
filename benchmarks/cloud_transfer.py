"""A bucket by our own requests against fsspec's file methods there: `python -m benchmarks.cloud_transfer PLACE...`.

A place is s3://, gs:// or abfs://; its server and credentials come from the environment, as everywhere. Both ways go
through one process in interleaved rounds, a large file and many small objects; ours hashes every byte, fsspec's none.
A server on this machine takes time of its own: the process's CPU time says what the client costs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.filesystems import filesystem_of
from benchmarks.machine import describe_machine
from benchmarks.rounds import print_result, print_table
from ftlib.storage import Place, open_store

WAYS = ("up", "down", "small")


@click.command()
@click.argument("places", nargs=-1, required=True)
@click.option("--mebibytes", type=int, default=64, show_default=True, help="Size of the large file.")
@click.option("--objects", type=int, default=100, show_default=True, help="Small ones, written and read one by one.")
@click.option("--repetitions", type=int, default=5, show_default=True)
def main(places: tuple[str, ...], mebibytes: int, objects: int, repetitions: int) -> None:
    """Measure seconds of both, and print fsspec's over ours."""
    ratios: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder, "large")
        large.write_bytes(os.urandom(mebibytes * 2**20))
        sha256 = hashlib.sha256(large.read_bytes()).hexdigest()
        for uri in places:
            place = Place.parse(f"{uri.rstrip('/')}/transfer-{uuid.uuid4().hex}")
            calls = {"ours": ours(place, large, sha256, objects), "fsspec": fsspecs(place, large, objects)}
            seconds: dict[tuple[str, str], list[float]] = {(who, way): [] for who in calls for way in WAYS}
            cpu: dict[tuple[str, str], list[float]] = {(who, way): [] for who in calls for way in WAYS}
            for turn in range(repetitions + 1):
                for who in sorted(calls, reverse=bool(turn % 2)):
                    for way in WAYS:
                        began, worked = time.perf_counter(), time.process_time()
                        calls[who][way]()
                        if turn:  # the first connects
                            seconds[who, way].append(time.perf_counter() - began)
                            cpu[who, way].append(time.process_time() - worked)
            assert large.with_name("ours").read_bytes() == large.with_name("fsspec").read_bytes() == large.read_bytes()
            for name, of in (("", seconds), ("_by_cpu_time", cpu)):
                ratios[f"{place.scheme}{name}"] = {
                    way: round(median(of["fsspec", way]) / median(of["ours", way]), 2) for way in WAYS
                }
                rows = [[who, *(f"{median(of[who, way]):.2f}" for way in WAYS)] for who in calls]
                heads = ["", "up", "down", f"{objects} small"]
                print_table(f"{place.scheme}, seconds{name.replace('_', ' ')}", heads, rows)
    print_result("cloud_transfer", ratios, {"mebibytes": mebibytes, "objects": objects, **describe_machine()})


def ours(place: Place, large: Path, sha256: str, objects: int) -> dict[str, Callable[[], None]]:
    """Return what a registry or a work place does."""
    store = open_store(place)

    def small() -> None:
        for n in range(objects):
            store.write(f"small/{n}", b"x" * 1000)
            assert store.read(f"small/{n}") == b"x" * 1000

    return {
        "up": lambda: store.put_file(large, "large", sha256),
        "down": lambda: store.get_file("large", large.with_name("ours"), sha256),
        "small": small,
    }


def fsspecs(place: Place, large: Path, objects: int) -> dict[str, Callable[[], None]]:
    """Return the same by the file methods of the service's filesystem."""
    filesystem, path = filesystem_of(place)

    def small() -> None:
        for n in range(objects):
            filesystem.pipe_file(f"{path}/fs/{n}", b"x" * 1000)
            assert filesystem.cat_file(f"{path}/fs/{n}") == b"x" * 1000

    return {
        "up": lambda: filesystem.put_file(str(large), f"{path}/fs-large"),
        "down": lambda: filesystem.get_file(f"{path}/fs-large", str(large.with_name("fsspec"))),
        "small": small,
    }


if __name__ == "__main__":
    main()
