"""Records are sealed: no byte of them can be another without being seen, and what a seal says others can compute."""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftlib.errors import IntegrityError
from ftlib.registry import CHAMPION, ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.registry.versions import Manifest, file_of
from ftlib.retraining.file_ledger import Changes, Decision, FileLedger
from ftlib.storage import LocalStore

Read = Callable[[ModelRegistry], object]

READERS: dict[str, Read] = {
    "models/m/versions/00000001.json": lambda registry: registry.version("m", 1),
    f"models/m/aliases/{CHAMPION}/00000001.json": lambda registry: registry.alias("m", CHAMPION),
    "ledgers/m/rows/00000001.json": lambda registry: FileLedger(registry.store, "m", "rows").state(),
    "registry.json": lambda registry: registry.check_format(),
}
each_record = pytest.mark.parametrize("path", READERS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("registry")
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("weights")
    registry = ModelRegistry(LocalStore(folder / "registry"))
    files = (file_of(folder / "model", "weights"),)
    manifest = Manifest(name="m", description="", files=files, metrics={}, lineage={})
    registry.publish(manifest, folder / "model", "key", lambda _: None, folder)
    registry.promote("m", CHAMPION, 1, None, "Ann \u2603", 'better by "0.1"')
    FileLedger(registry.store, "m", "rows").append(Changes(), Decision(what="promoted", version=1), after=0)
    return folder / "registry"


@pytest.fixture
def registry(root: Path) -> Iterator[ModelRegistry]:
    before = {path: (root / path).read_bytes() for path in READERS}
    yield ModelRegistry(LocalStore(root))
    for path, data in before.items():
        (root / path).write_bytes(data)


@each_record
def test_no_bit_of_a_record_can_be_another_without_being_seen(registry: ModelRegistry, root: Path, path: str):
    whole, read = (root / path).read_bytes(), READERS[path]
    read(registry)
    for at in range(len(whole)):
        for bit in range(8):
            (root / path).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(IntegrityError, match=f"{path} has other bytes .*restore it from a copy"):
                read(registry)


@each_record
def test_no_byte_can_be_missing_or_added(registry: ModelRegistry, root: Path, path: str):
    whole, read = (root / path).read_bytes(), READERS[path]
    for other in (*(whole[:at] for at in range(len(whole))), whole + b" ", b" " + whole, whole + b"\0"):
        (root / path).write_bytes(other)
        with pytest.raises(IntegrityError):
            read(registry)


@each_record
def test_the_seal_is_json_and_the_sha256_of_what_follows_its_line(root: Path, path: str):
    data = (root / path).read_bytes()
    seal = json.loads(data)["sha256"]
    assert hashlib.sha256(data.partition(seal.encode() + b'",')[2]).hexdigest() == seal


def test_a_damaged_record_is_no_ground_to_write_over_it(registry: ModelRegistry, root: Path):
    entry = root / f"models/m/aliases/{CHAMPION}/00000001.json"
    harmed = entry.read_bytes().replace(b'"version": 1', b'"version": 7')
    entry.write_bytes(harmed)
    with pytest.raises(IntegrityError):
        registry.promote("m", CHAMPION, 1, 1, "ann", "")
    assert entry.read_bytes() == harmed
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]
    assert [fault.path for fault in fsck(registry).faults] == [entry.relative_to(root).as_posix()]


def test_a_record_that_was_only_damaged_on_its_way_is_read_again(registry: ModelRegistry, root: Path):
    class Flaky(LocalStore):
        reads = 0

        def read(self, path: str) -> bytes | None:
            data = super().read(path)
            self.reads += 1
            return bytes([*(data or b"")[:-1], 0]) if self.reads % 2 else data

    assert ModelRegistry(Flaky(root)).version("m", 1) == registry.version("m", 1)
