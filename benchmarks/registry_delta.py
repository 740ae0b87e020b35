"""What a changed model costs to publish: `python infra/radosgw.py python -m benchmarks.registry_delta`.

Publishes a version of eight shards, one in which one shard is another, and the same once more under another key; counts
the bytes of every request's body as it leaves, the records and the probe's race included.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path
from typing import Any

import boto3
import click

from benchmarks.machine import describe_machine
from benchmarks.registry_transfer import S3_SERVER, make_shards, server_name
from benchmarks.rounds import print_result, print_table
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import S3Store

TARGET = 1.05


class Sent:
    """The bodies that leave through a store, counted where botocore hands them to the socket."""

    def __init__(self, store: S3Store) -> None:
        self.bodies: list[int] = []
        store.client.connected().meta.events.register("before-send.s3", self.count)

    def count(self, request: Any, **_: Any) -> None:
        """Note one request."""
        if request.body:
            self.bodies.append(int(request.headers["Content-Length"]))


@click.command()
@S3_SERVER
@click.option("--shards", type=int, default=8, show_default=True)
@click.option("--mebibytes", type=int, default=16, show_default=True, help="Size of a shard.")
def main(endpoint_url: str, shards: int, mebibytes: int) -> None:
    """Measure bytes sent over bytes changed."""
    bucket = boto3.resource("s3", endpoint_url=endpoint_url).Bucket(f"delta-{uuid.uuid4().hex}")
    bucket.create()
    store = S3Store(bucket.name, "registry", endpoint_url)
    sent = Sent(store)
    found: dict[str, tuple[int, list[int]]] = {}
    with tempfile.TemporaryDirectory() as place:
        (folder := Path(place, "model")).mkdir()
        names = make_shards(folder, shards, mebibytes * 2**20)
        for what, changed in (("all", names), ("one", names[-1:]), ("none", [])):
            for name in changed:
                (folder / name).write_bytes(os.urandom(mebibytes * 2**20))
            sent.bodies.clear()
            publish(store, folder, names, what)
            found[what] = (len(changed) * mebibytes * 2**20, list(sent.bodies))
    print_table(f"publishing {shards} shards of {mebibytes} MiB", COLUMNS, [row(what, *found[what]) for what in found])
    changed, bodies = found["one"]
    ratios = {"sent_over_changed": round(sum(bodies) / changed, 6), "sent_if_none_changed": sum(found["none"][1])}
    settings = {"shards": shards, "mebibytes": mebibytes, "target": TARGET, "server": server_name(endpoint_url)}
    print_result("registry_delta", ratios, {**settings, **describe_machine()})


COLUMNS = ("shards that changed", "bytes changed", "bytes sent", "ratio", "requests with a body")


def row(what: str, changed: int, bodies: list[int]) -> list[str]:
    """Return a line of the table."""
    ratio = f"{sum(bodies) / changed:.5f}" if changed else ""
    return [what, f"{changed:,}", f"{sum(bodies):,}", ratio, str(len(bodies))]


def publish(store: S3Store, folder: Path, names: list[str], key: str) -> None:
    """Publish a version as the register stage does. Raises RuntimeError if it was there already."""
    files = tuple(file_of(folder, name) for name in names)
    manifest = Manifest(name="m", description="", files=files, metrics={}, lineage={"key": key})
    with tempfile.TemporaryDirectory() as scratch:
        _, created = ModelRegistry(store).publish(manifest, folder, key, lambda _: None, Path(scratch))
    if not created:
        raise RuntimeError(f"the version {key!r} was there already: nothing was measured")


if __name__ == "__main__":
    main()
