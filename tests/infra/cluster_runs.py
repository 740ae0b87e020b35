"""Runs on the machines of `infra.cluster`, as the tests beside this file start and look at them."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

from ftlib.testing import tiny_classifier, tiny_rows
from ftlib.testing.rows import write_jsonl
from infra.cluster import BUCKET, CREDENTIALS, Cluster, why_not

MARKS = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "-"),
]

RECIPE = """
name: tiny
model: {path: /tmp/project/model}
datasets:
  home:
    source: {kind: files, path: "s3://cluster/rows.jsonl"}
    format: {kind: labeled_text, text: text, label: label, max_tokens: 32}
phases:
  - name: tune
    dataset: home
    objective: {kind: classification}
    tuning: {kind: full}
    optimizer: {epochs: 2, learning_rate: 1e-3, batch_size: 16}
    dropout: 0.0
evaluations:
  home: {dataset: home, metrics: [{kind: accuracy}], resamples: 100}
select: {rule: best, by: home/accuracy}
publish: {name: tiny-router, to: {kind: s3, bucket: cluster, prefix: registry}}
compute: {workers: 2, threads: 1, checkpoint_seconds: 1, collective_timeout_seconds: 20, max_failures: 4}
"""
RUN_SECONDS = 900.0
LONG = "phases.tune.optimizer.epochs=24"
"""408 steps: what happens to a node hits one."""
REGLAGE = ("reglage",)
PREPARED = ("ingest", "preprocess", "base")
ALONE = ("compute.ray_address=local", "compute.workers=0")


class Run:
    """A command on the laptop, or on another machine, and what it leaves in the bucket."""

    def __init__(
        self, cluster: Cluster, work: str, *settings: str, machine: str = "laptop", program: tuple[str, ...] = REGLAGE
    ) -> None:
        self.cluster, self.work, self.output = cluster, work, ""
        asked = [f"compute.ray_address={cluster.address}", *settings]
        command = [*program, "run", "project/tiny.yaml", "--work", f"s3://{BUCKET}/{work}"]
        command += [part for one in asked for part in ("--set", one)]
        self.process = cluster.popen(command, machine, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def again(self, work: str, *, program: tuple[str, ...] = REGLAGE) -> Run:
        """The same run in a work place of its own, which has its rows already."""
        for prefix in ("place.json", "blobs/", "carried/", "shared/", *(f"stages/{one}/" for one in PREPARED)):
            for key in keys(self.cluster, f"{self.work}/{prefix}"):
                there = f"{work}{key.removeprefix(self.work)}"
                client(self.cluster).copy_object(Bucket=BUCKET, Key=there, CopySource=f"{BUCKET}/{key}")
        return Run(self.cluster, work, LONG, program=program)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line

    def ends(self) -> int:
        try:
            code = self.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"it goes on after {RUN_SECONDS:g} s:\n{self.output[-3000:]}")
        self._reader.join(10)
        return code

    def succeeds(self) -> Run:
        assert self.ends() == 0, self.output[-3000:]
        return self

    def stops(self) -> None:
        """Ask the workers to end, as Ctrl-C does, and wait for that."""
        attempt = max(
            key.partition("curves/")[0] for key in keys(self.cluster, f"{self.work}/attempts/") if "/curves/" in key
        )
        client(self.cluster).put_object(Bucket=BUCKET, Key=f"{attempt}stop", Body=b"stop\n")
        assert self.ends() != 0

    def curve(self) -> list[dict[str, Any]]:
        """All records of the training as they came, `start` lines included."""
        records: list[dict[str, Any]] = []
        for key in sorted(keys(self.cluster, f"{self.work}/attempts/")):
            if "/curves/" in key:
                records += [json.loads(line) for line in read(self.cluster, key).splitlines()]
        return records

    def steps(self) -> int:
        return max((int(r["step"]) for r in self.curve() if "loss" in r), default=0)

    def starts(self) -> list[int]:
        """The steps at which the workers of a training that goes on began."""
        return [int(record["start"]) for record in self.curve() if "start" in record]

    def is_at(self, step: int) -> Run:
        """Wait until its training has made a step."""
        self.wait_for(lambda: self.steps() >= step)
        return self

    def records(self, stage: str) -> dict[str, dict[str, Any]]:
        """What a stage made, by its record's key below the work place."""
        there = [key for key in keys(self.cluster, f"{self.work}/stages/{stage}/") if key.endswith("record.json")]
        return {key.removeprefix(self.work): json.loads(read(self.cluster, key)) for key in there}

    def trained(self) -> dict[str, Any]:
        """What the training made: there is one record of it."""
        (record,) = self.records("train").values()
        return record

    def weights(self) -> str:
        """The digest of what was trained."""
        return self.trained()["artifact"]["weights"]

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A file that the training left beside its weights."""
        (sha256,) = [file["sha256"] for file in self.trained()["files"] if file["path"] == name]
        text = read(self.cluster, f"{self.work}/blobs/sha256/{sha256[:2]}/{sha256}")
        return [json.loads(line) for line in text.splitlines()]

    def begun(self) -> list[int]:
        """The steps at which the workers of a training that ended began."""
        return [int(line["step"]) for line in self.lines("starts.jsonl")]

    def busy(self) -> list[str]:
        """The nodes on whose disk a rank has written a checkpoint just now."""

        def writes(name: str) -> bool:
            files = (self.cluster.folder / "disks" / name / ".cache").rglob("rank-*")
            return any(time.time() - file.stat().st_mtime < 15 for file in files if file.exists())

        return [name for name in self.cluster.nodes if writes(name)]

    def wait_for(self, holds: Callable[[], bool], seconds: float = RUN_SECONDS) -> float:
        """Wait for a condition while the run goes on, and say how many seconds that took."""
        began = time.monotonic()
        while not holds():
            assert self.process.poll() is None, self.output[-3000:]
            assert time.monotonic() - began < seconds, f"not in {seconds:g} s:\n{self.output[-3000:]}"
            time.sleep(0.5)
        return time.monotonic() - began

    def goes_on(self) -> float:
        """Wait until the workers begin again and have made a step; say how many seconds that took."""
        starts = len(self.starts())

        def again() -> bool:
            records = self.curve()
            begun = [i for i, record in enumerate(records) if "start" in record]
            return len(begun) > starts and any("loss" in record for record in records[begun[-1] :])

        return self.wait_for(again)


def client(cluster: Cluster) -> Any:
    names = dict(zip(("aws_access_key_id", "aws_secret_access_key", "region_name"), CREDENTIALS.values(), strict=True))
    return boto3.client("s3", endpoint_url=cluster.endpoint, **names)


def keys(cluster: Cluster, prefix: str) -> list[str]:
    pages = client(cluster).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [listed["Key"] for page in pages for listed in page.get("Contents", [])]


def read(cluster: Cluster, key: str) -> str:
    return client(cluster).get_object(Bucket=BUCKET, Key=key)["Body"].read().decode()


def versions(cluster: Cluster) -> list[str]:
    return [key for key in keys(cluster, "registry/models/") if "/versions/" in key]


def put_project(cluster: Cluster, machine: str) -> Path:
    """Write the recipe, its model and its rows to a machine's disk."""
    project = cluster.folder / "disks" / machine / "project"
    tiny_classifier(project / "model")
    write_jsonl(project / "rows.jsonl", tiny_rows(400))
    (project / "tiny.yaml").write_text(RECIPE)
    return project


def with_nodes(cluster: Cluster, count: int) -> None:
    """Have so many worker nodes again."""
    for name in [name for name in cluster.machines if name.startswith("node-") and name not in cluster.nodes]:
        cluster.kill(name)  # Ray had given it up, so it ended
    while len(cluster.nodes) < count:
        cluster.add(1)
    cluster.wait_for_nodes(count)
