"""Model files to a real S3 server and back: `python infra/radosgw.py python -m benchmarks.registry_transfer`.

The registry's own upload and download, with everything they do (a look whether the blob is there, sha256 of every
byte), against boto3's transfer manager and s3fs with their defaults, which do none of it. Each in a process of its own,
up and down apart, in interleaved rounds. Two more figures: `down_over_verified_*` gives the others' time with a sha256
of every file added, on every core; `pull` is our download with every file on the disk at its end, which only we offer.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import boto3
import click

from benchmarks.machine import cores, describe_machine
from benchmarks.rounds import fresh_process, interleaved, middle, print_result, print_table, spread
from benchmarks.transfer_contestants import CONTESTANTS

WAYS = ("up", "down", "pull")
TARGETS = {"up_over_faster": 0.95, "down_over_faster": 0.95, "peak_megabytes": 300}


S3_SERVER = click.option(
    "--endpoint-url", envvar="AWS_ENDPOINT_URL", required=True, help="The S3 server; infra/radosgw.py starts one."
)


@click.command()
@S3_SERVER
@click.option("--shards", type=int, default=8, show_default=True)
@click.option("--mebibytes", type=int, default=128, show_default=True, help="Size of a shard.")
@click.option("--repetitions", type=int, default=3, show_default=True)
def main(endpoint_url: str, shards: int, mebibytes: int, repetitions: int) -> None:
    """Measure megabytes per second and peak memory, up and down."""
    os.environ["AWS_ENDPOINT_URL"] = endpoint_url  # which every contestant reads
    total = shards * mebibytes * 2**20 / 1e6
    bucket = boto3.resource("s3").Bucket(f"transfer-{uuid.uuid4().hex}")
    bucket.create()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        names = make_shards(folder, shards, mebibytes * 2**20)
        warm_up(bucket)

        def measure(contestant: str, repetition: int) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for way in CONTESTANTS[contestant]:
                took = moved(contestant, way, bucket.name, folder, names)
                found |= {f"{way}_{key}": value for key, value in took.items()}
                found[f"{way}_rate"] = total / took["seconds"]
                found[f"{way}_verified_rate"] = total / took["verified_seconds"]
                if way != "up":
                    compare(folder, names)
                    shutil.rmtree(folder / "down")
            bucket.objects.all().delete()
            return found

        outcomes = interleaved(list(CONTESTANTS), repetitions, measure)
    print_table(f"{total / 1000:.2f} GB in {shards} shards", COLUMNS, [row(name, outcomes[name]) for name in outcomes])
    settings: dict[str, Any] = {
        "shards": shards,
        "mebibytes": mebibytes,
        "repetitions": repetitions,
        "targets": TARGETS,
    }
    settings["server"] = server_name(endpoint_url)
    print_result("registry_transfer", ratios(outcomes), {**settings, **describe_machine()})


def server_name(endpoint_url: str) -> str:
    """Return what infra/radosgw.py started, or the address."""
    return os.environ.get("S3_SERVER", endpoint_url)


COLUMNS = ("", "up MB/s", "lowest to highest", "CPU s", "MB RSS", "down MB/s", "lowest to highest", "CPU s", "MB RSS")


def row(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """Return a line of the table."""
    cells = [name]
    for way in ("up", "down"):
        cells += [f"{middle(found, f'{way}_rate'):.0f}", spread(found, f"{way}_rate")]
        cells += [
            f"{middle(found, f'{way}_{key}'):.{digits}f}" for key, digits in (("cpu_seconds", 1), ("peak_megabytes", 0))
        ]
    return cells


def ratios(outcomes: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Compare ours with the faster of the others, with those who verify too, and give our highest peak."""
    ours, others = outcomes["reglage"], {name: found for name, found in outcomes.items() if name != "reglage"}
    compared: dict[str, Any] = {}
    for way in ("up", "down"):
        rates = {name: middle(found, f"{way}_rate") for name, found in others.items()}
        mine = middle(ours, f"{way}_rate")
        compared |= {f"{way}_over_{name}": round(mine / rate, 3) for name, rate in rates.items()}
        compared[f"{way}_over_faster"] = round(mine / max(rates.values()), 3)
    verified = {name: middle(found, "down_verified_rate") for name, found in others.items()}
    compared |= {f"down_over_verified_{name}": round(middle(ours, "down_rate") / verified[name], 3) for name in others}
    fastest = max(middle(found, "down_rate") for found in others.values())
    compared["pull_over_faster_download"] = round(middle(ours, "pull_rate") / fastest, 3)
    compared["pull_megabytes_per_second"] = round(middle(ours, "pull_rate"))
    compared["peak_megabytes"] = round(max(outcome[f"{way}_peak_megabytes"] for outcome in ours for way in WAYS))
    return compared


def warm_up(bucket: Any) -> None:
    """Let a fresh radosgw make its pools, which takes it seconds at the first upload in parts."""
    for _ in range(3):
        bucket.upload_fileobj(io.BytesIO(bytes(20 * 2**20)), "warm")
        bucket.Object("warm").get()["Body"].read()


def make_shards(folder: Path, shards: int, size: int) -> list[str]:
    """Write files that no compression or deduplication makes smaller."""
    names = [f"model-{n + 1:05d}-of-{shards:05d}.safetensors" for n in range(shards)]
    for name in names:
        (folder / name).write_bytes(os.urandom(size))
    os.sync()
    return names


def moved(contestant: str, direction: str, bucket: str, folder: Path, names: list[str]) -> dict[str, Any]:
    """Let a fresh process move the files, and return what it took."""
    task = {"contestant": contestant, "direction": direction, "bucket": bucket, "folder": str(folder), "names": names}
    return fresh_process("benchmarks.transfer_contestants", task, threads=cores())


def compare(folder: Path, names: list[str]) -> None:
    """Check that what came back is what was sent. Raises RuntimeError."""
    for name in names:
        sent, back = (hashlib.file_digest((folder / way / name).open("rb"), "sha256").digest() for way in ("", "down"))
        if sent != back:
            raise RuntimeError(f"{name} came back with other bytes")


if __name__ == "__main__":
    main()
