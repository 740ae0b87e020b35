"""How long it takes to decide that nothing is new: `python -m benchmarks.nothing_new [--files 10000 30000 100000]`.

What a scheduled retraining does on most days: list the source, add up the ledger, compare. For a folder, and for a
bucket on a server of our own on loopback, whose requests are counted; it is moto, which goes through all its keys for
every page, so seconds there say little. Every size has a ledger with one snapshot and some entries behind it.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.rounds import interleaved, middle, print_result, print_table
from ftlib.data.listed import ListedFile
from ftlib.data.sources.files import Files
from ftlib.retraining.file_ledger import ENTRIES_PER_SNAPSHOT, Decision, FileLedger, LedgerState, compare
from ftlib.storage import LocalStore, S3Store, Store
from ftlib.storage.patience import Patient
from ftlib.storage.s3_client import S3Client

SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""
BUCKET = "bench"


def main() -> None:
    """Make the files, decide in interleaved rounds, print a table and the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 30_000, 100_000])
    parser.add_argument("--objects", type=int, nargs="+", default=[3_000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sizes = {"folder": args.files, "bucket": args.objects}
    places = {f"{where} {count:,}": (where, count) for where, counts in sizes.items() for count in counts}
    with tempfile.TemporaryDirectory() as folder, s3_server() as endpoint:
        cases = {name: prepare(where, count, Path(folder), endpoint) for name, (where, count) in places.items()}
        outcomes = interleaved(list(places), args.rounds, lambda name, _: decide(*cases[name]))
    rows = [
        [name, f"{middle(outcomes[name], 'seconds'):.2f}", f"{middle(outcomes[name], 'requests'):.0f}"]
        for name in places
    ]
    print_table("Deciding that nothing is new (median)", ["files", "seconds", "S3 requests"], rows)
    ratios: dict[str, Any] = {
        f"{where}_growth": growth(counts, [middle(outcomes[f"{where} {n:,}"], "seconds") for n in counts])
        for where, counts in sizes.items()
    }
    ratios |= {name.replace(" ", "_"): round(middle(outcomes[name], "seconds"), 3) for name in places}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    settings = {**vars(args), "peak_mb": peak, "machine": describe_machine()}
    print_result("nothing_new", ratios, settings)


def decide(source: Files, ledger: FileLedger) -> dict[str, Any]:
    """List, add up, compare; count what is asked of the server."""
    with counted() as requests:
        started = time.perf_counter()
        changes = compare(ledger.state(), source.list())
        seconds = time.perf_counter() - started
    assert changes.nothing, str(changes)
    return {"seconds": seconds, "requests": len(requests)}


def prepare(where: str, count: int, folder: Path, endpoint: str) -> tuple[Files, FileLedger]:
    """Make the files, and a ledger that knows them: a snapshot, and entries behind it."""
    store: Store
    if where == "folder":
        source, store = Files(path=str(folder / f"{count}")), LocalStore(folder / "registry")
        for name in names(count):
            path = folder / f"{count}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    else:
        source = Files(path=f"s3://{BUCKET}/{count}/", endpoint_url=endpoint)
        store = S3Store(BUCKET, "registry", endpoint)
        fill(endpoint, count)
    ledger = FileLedger(store, "model", f"files-{count}")
    listed = source.list()
    assert len(listed) == count
    for files in batches(listed, ENTRIES_PER_SNAPSHOT + 8):
        state = ledger.state()
        changes = compare(LedgerState(), files)
        assert ledger.append(changes, Decision(what="promoted"), after=state.sequence)
    return source, ledger


def batches(listed: tuple[ListedFile, ...], count: int) -> Iterator[tuple[ListedFile, ...]]:
    """Cut a listing into as many histories of arrival."""
    for places in np.array_split(np.arange(len(listed)), count):
        yield listed[int(places[0]) : int(places[-1]) + 1]


def names(count: int) -> Iterator[str]:
    """Yield hourly files of many days."""
    for n in range(count):
        yield f"day={n // 24:05d}/hour-{n % 24:02d}.jsonl"


def fill(endpoint: str, count: int) -> None:
    """Put empty objects, one request each."""
    from concurrent.futures import ThreadPoolExecutor

    client = S3Client(BUCKET, endpoint, 60.0)
    with ThreadPoolExecutor(4) as pool:
        list(
            pool.map(
                lambda name: client.request("filling", "put_object", Bucket=BUCKET, Key=f"{count}/{name}", Body=b""),
                names(count),
            )
        )


@contextmanager
def counted() -> Generator[list[str]]:
    """Collect what is asked of an S3 server."""
    asked: list[str] = []

    real = Patient.retry

    def call(client: Patient, what: str, request: Callable[[Any], Any]) -> Any:
        asked.append(what)
        return real(client, what, request)

    with patch.object(Patient, "retry", call):
        yield asked


@contextmanager
def s3_server() -> Generator[str]:
    """Serve a bucket on loopback until the block ends."""
    os.environ.update(AWS_ACCESS_KEY_ID="testing", AWS_SECRET_ACCESS_KEY="testing", AWS_DEFAULT_REGION="us-east-1")
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout
        endpoint = f"http://127.0.0.1:{int(server.stdout.readline())}"
        S3Client(BUCKET, endpoint, 60.0).request("making a bucket", "create_bucket", Bucket=BUCKET)
        yield endpoint
        server.communicate("")


def growth(counts: list[int], seconds: list[float]) -> float:
    """Return the exponent of seconds over files, by least squares of logarithms: 1 is linear."""
    return round(float(np.polyfit(np.log(counts), np.log(seconds), 1)[0]), 2) if len(counts) > 1 else 1.0


if __name__ == "__main__":
    main()
