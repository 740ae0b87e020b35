"""kill -9 at any moment of hundreds of publishes to S3, two at a time: nothing is lost, doubled, torn or dangling."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import ftlib.registry.registry as registry_module
import ftlib.storage.s3 as s3_module
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import MANIFEST
from ftlib.storage import S3Store
from tests.ftlib.registry.kit import child, exit_code, fine, staged, stored

PUBLISHES = 200
PER_MODEL = 25  # a publish reads all earlier ones
LARGE = 5 * 2**20 + 1  # with the least part that S3 takes, an upload in two parts


def files(key: int) -> dict[str, str]:
    """What version `key` holds: a file of its own, one of ten that others have too, and now and then a large one."""
    large = {"large": f"{key % 4}" * LARGE} if key % 10 == 0 else {}
    return {"own": f"weights {key}", "shared": f"shard {key % 10}", **large}


def model(key: int) -> str:
    return f"m{key // PER_MODEL}"


def publish(store: S3Store, scratch: Path, key: int) -> None:
    if key % 10:  # one in ten does everything; the race before it is half of all requests, and has its own tests
        registry_module.probe = lambda _: None
    manifest, folder = staged(scratch / "staging", files(key), model(key))
    ModelRegistry(store).publish(manifest, folder, str(key), fine, scratch)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_random_kills_lose_no_version_and_tear_none(
    bucket, s3_store: S3Store, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3_module, "RANGE_BYTES", 5 * 2**20)
    chance = random.Random(seed)
    ours = S3Store(bucket.name, "registry", s3_endpoint)
    ours.client.connected()  # to nobody yet: every child would take 0.1 s for it

    def start(key: int) -> int:
        (scratch := tmp_path / f"scratch-{key}").mkdir(exist_ok=True)
        return child(lambda: publish(ours, scratch, key))

    assert exit_code(start(0)) == 0  # a first one takes longer
    began = time.monotonic()
    assert exit_code(start(1)) == 0
    usual = time.monotonic() - began

    waiting, killed = list(range(2, PUBLISHES)), 0
    while waiting:
        keys = waiting[:2]
        running = {key: start(key) for key in keys}
        for pid in running.values():
            if chance.random() < 0.7:
                time.sleep(chance.uniform(0, usual))
                os.kill(pid, signal.SIGKILL)
        codes = {key: exit_code(pid) for key, pid in running.items()}
        assert set(codes.values()) <= {0, -signal.SIGKILL}
        killed += sum(code != 0 for code in codes.values())
        waiting = [key for key in waiting if codes.get(key, 1) != 0]
        for key in keys:
            shutil.rmtree(tmp_path / f"scratch-{key}")
    assert killed > PUBLISHES / 4

    registry = ModelRegistry(s3_store)
    referenced: set[str] = set()
    for first in range(0, PUBLISHES, PER_MODEL):
        versions = registry.versions(model(first))
        assert [version.version for version in versions] == list(range(1, PER_MODEL + 1))
        assert sorted(int(version.key) for version in versions) == list(range(first, first + PER_MODEL))
        for version in versions:
            registry.pull(version, out := tmp_path / "out")  # which compares every digest
            found = {path.name: path.read_text() for path in out.iterdir() if path.name != MANIFEST}
            assert found == files(int(version.key))
            shutil.rmtree(out)
            referenced |= {file.blob for file in registry.manifest(version).files}
    assert set(stored(s3_store, "blobs")) == referenced
