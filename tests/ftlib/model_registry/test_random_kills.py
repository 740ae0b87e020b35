"""kill -9 at any moment of hundreds of publishes to S3, two at a time: nothing is lost, doubled, torn or dangling."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import ftlib.storage.s3 as s3_module
from ftlib.model_registry import ModelRegistry
from ftlib.storage import S3Store
from ftlib.versions import MANIFEST
from tests.ftlib.model_registry.kit import child, exit_code, publish, stored

PUBLISHES = 200
LARGE = 5 * 2**20 + 1  # with the least part that S3 takes, an upload in two parts


def files(key: int) -> dict[str, str]:
    """What version `key` holds: a file of its own, one of ten that others have too, and now and then a large one."""
    large = {"large": f"{key % 4}" * LARGE} if key % 10 == 0 else {}
    return {"own": f"weights {key}", "shared": f"shard {key % 10}", **large}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_random_kills(
    bucket, s3_store: S3Store, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
):
    monkeypatch.setattr(s3_module, "PART_BYTES", 5 * 2**20)
    monkeypatch.setattr(s3_module, "RANGE_BYTES", 5 * 2**20)
    chance = random.Random(seed)

    def start(key: int) -> int:
        (scratch := tmp_path / f"scratch-{key}").mkdir(exist_ok=True)
        ours = lambda: S3Store(bucket.name, "registry", s3_endpoint)  # noqa: E731
        return child(lambda: publish(ours(), scratch, str(key), files(key)) and None)

    began = time.monotonic()
    assert exit_code(start(0)) == 0
    usual = time.monotonic() - began

    waiting, killed = list(range(1, PUBLISHES)), 0
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
    versions = registry.versions("m")
    assert [version.version for version in versions] == list(range(1, PUBLISHES + 1))
    assert sorted(int(version.key) for version in versions) == list(range(PUBLISHES))
    referenced: set[str] = set()
    for version in versions:
        assert registry.verify(version) == []
        registry.pull(version, out := tmp_path / "out")
        found = {path.name: path.read_text() for path in out.iterdir() if path.name != MANIFEST}
        assert found == files(int(version.key))
        shutil.rmtree(out)
        referenced |= {file.blob for file in registry.manifest(version).files}
    assert set(stored(s3_store, "blobs")) == referenced
