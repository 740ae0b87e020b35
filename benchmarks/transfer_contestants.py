"""One contestant of benchmarks.registry_transfer, in a process of its own: `... TASK.json OUTCOME.json`."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Transfer = Callable[[str, Path, list[str]], None]
"""Given a bucket, a folder and names, move all of them."""


def reglage_up(bucket: str, folder: Path, names: list[str]) -> Callable[[], None]:
    from ftlib.registry import transfers
    from ftlib.storage import S3Store

    store, manifest = S3Store(bucket, "reglage"), manifest_of(folder, names)
    return lambda: transfers.upload(store, manifest, folder, nothing)


def reglage_down(bucket: str, folder: Path, names: list[str]) -> Callable[[], None]:
    from ftlib.registry import transfers
    from ftlib.storage import S3Store

    store, manifest = S3Store(bucket, "reglage"), manifest_of(folder, names)
    return lambda: transfers.download(store, manifest, folder / "down", nothing)


def reglage_pull(bucket: str, folder: Path, names: list[str]) -> Callable[[], None]:
    from ftlib.registry import transfers
    from ftlib.storage import S3Store

    store, manifest = S3Store(bucket, "reglage"), manifest_of(folder, names)
    return lambda: transfers.download(store, manifest, folder / "down", nothing, durable=True)


def manifest_of(folder: Path, names: list[str]) -> Any:
    """Return the manifest that the register stage would have made: the digests are known before any transfer."""
    from ftlib.registry.versions import Manifest, file_of

    files = tuple(file_of(folder, name) for name in names)
    return Manifest(name="m", description="", files=files, metrics={}, lineage={})


def nothing() -> None:
    """Be told that a file has moved."""


def s3fs_up(bucket: str, folder: Path, names: list[str]) -> Callable[[], None]:
    from s3fs import S3FileSystem

    files, keys = [str(folder / name) for name in names], [f"{bucket}/s3fs/{name}" for name in names]
    system = S3FileSystem()
    return lambda: system.put(files, keys)


def s3fs_down(bucket: str, folder: Path, names: list[str]) -> Callable[[], None]:
    from s3fs import S3FileSystem

    (folder / "down").mkdir()
    keys, files = [f"{bucket}/s3fs/{name}" for name in names], [str(folder / "down" / name) for name in names]
    system = S3FileSystem()
    return lambda: system.get(keys, files)


def boto3_up(bucket: str, folder: Path, names: list[str]) -> Callable[[], None]:
    manager = transfer_manager()
    return lambda: each(manager.upload(str(folder / name), bucket, f"boto3/{name}") for name in names)


def boto3_down(bucket: str, folder: Path, names: list[str]) -> Callable[[], None]:
    (folder / "down").mkdir()
    manager = transfer_manager()
    return lambda: each(manager.download(bucket, f"boto3/{name}", str(folder / "down" / name)) for name in names)


def transfer_manager() -> Any:
    """Return boto3's own, with its defaults: all files at once, 10 parts of 8 MiB in flight."""
    import boto3
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    return create_transfer_manager(boto3.client("s3"), TransferConfig())


def each(futures: Any) -> None:
    """Wait for all."""
    for future in list(futures):
        future.result()


CONTESTANTS: dict[str, dict[str, Callable[[str, Path, list[str]], Callable[[], None]]]] = {
    "reglage": {"up": reglage_up, "down": reglage_down, "pull": reglage_pull},
    "boto3": {"up": boto3_up, "down": boto3_down},
    "s3fs": {"up": s3fs_up, "down": s3fs_down},
}


def hash_all(folder: Path) -> None:
    """Do what sha256sum would do to what came down, on every core."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(lambda path: hashlib.file_digest(path.open("rb"), "sha256"), (folder / "down").iterdir()):
            pass


def main(given: Path, returned: Path) -> None:
    """Prepare, then move the files against the clock."""
    task = json.loads(given.read_text())
    names = task["names"]
    folder = Path(task["folder"])
    move = CONTESTANTS[task["contestant"]][task["direction"]](task["bucket"], folder, names)
    began, cpu = time.monotonic(), time.process_time()
    move()
    outcome = {
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - cpu,
        "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }
    if task["direction"] == "down" and task["contestant"] != "reglage":  # which has compared every digest by now
        hash_all(folder)
    outcome["verified_seconds"] = time.monotonic() - began
    returned.write_text(json.dumps(outcome))
    os.sync()  # what is still on its way to the disk must not slow the next one down


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
