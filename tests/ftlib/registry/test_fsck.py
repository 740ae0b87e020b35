"""Every way a registry can be damaged by hand, and what fsck says about it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlib.errors import IntegrityError, StorageError
from ftlib.registry import AliasEntry, ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.retraining.file_ledger import Changes, Decision, FileLedger
from ftlib.storage import LocalStore, Store
from ftlib.storage.sealed_records import record_bytes
from tests.ftlib.registry.kit import FILES, copy, damage, publish

LEDGER = "ledgers/m/tickets"
ENTRY = "models/m/aliases/champion/0000000{}.json"


@pytest.fixture(scope="module")
def whole_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three versions, the champion moved twice, two decisions about files."""
    store = LocalStore(folder := tmp_path_factory.mktemp("whole"))
    for key in "abc":
        publish(store, tmp_path_factory.mktemp("staging"), key, {**FILES, "key": key})
    registry = ModelRegistry(store)
    registry.promote("m", "champion", 1, None, "ann", "")
    registry.promote("m", "champion", 3, 1, "ann", "")
    ledger = FileLedger(store, "m", "tickets")
    for sequence in range(2):
        ledger.append(Changes(), Decision(what="promoted"), after=sequence)
    return folder


@pytest.fixture
def registry(whole_registry: Path, store: Store) -> ModelRegistry:
    copy(whole_registry, store)
    return ModelRegistry(store)


def blob(registry: ModelRegistry, path: str, version: int = 2) -> str:
    files = registry.manifest(registry.version("m", version)).files
    return next(file.blob for file in files if file.path == path)


def test_a_whole_registry_has_no_faults_and_everything_is_counted(registry: ModelRegistry):
    found = fsck(registry, deep=True)
    assert found.faults == found.unreferenced == found.temporary == found.leases == ()
    assert (found.models, found.versions, found.aliases, found.blobs) == (1, 3, 1, 6)
    assert found.bytes == sum(map(len, FILES.values())) + 3


def test_where_there_is_no_registry_that_is_said(store: Store):
    with pytest.raises(StorageError, match="there is no registry"):
        fsck(ModelRegistry(store))


def rewrite(store: Store, path: str, change: Callable[[bytes], bytes]) -> None:
    data = store.read(path)
    assert data is not None
    store.discard(path)
    store.create(path, change(data))


def entry_for(version: int) -> Callable[[bytes], bytes]:
    """Somebody who knows how records are sealed."""

    def change(data: bytes) -> bytes:
        fields = {name: value for name, value in json.loads(data).items() if name != "sha256"}
        return record_bytes(AliasEntry.model_validate({**fields, "version": version}))

    return change


DAMAGES: dict[str, tuple[Callable[[ModelRegistry], object], list[tuple[str, str]]]] = {
    "a version gone": (
        lambda r: r.store.discard("models/m/versions/00000002.json"),
        [("models/m/versions", "lacks 2")],
    ),
    "a version that is none": (
        lambda r: rewrite(r.store, "models/m/versions/00000002.json", lambda _: b"{}"),
        [("models/m/versions/00000002.json", "other bytes than were written")],
    ),
    "a version that is something else": (
        lambda r: rewrite(r.store, "models/m/versions/00000002.json", lambda _: r.store.read(ENTRY.format(1)) or b""),
        [("models/m/versions/00000002.json", "not a Version record")],
    ),
    "a version copied": (
        lambda r: rewrite(
            r.store, "models/m/versions/00000002.json", lambda _: r.store.read("models/m/versions/00000001.json") or b""
        ),
        [("models/m/versions/00000002.json", "says it is m@1")],
    ),
    "a manifest gone": (
        lambda r: r.store.discard(f"models/m/manifests/{r.version('m', 2).manifest}.json"),
        [("models/m/manifests/", "is missing though m@2 needs it")],
    ),
    "a manifest changed": (
        lambda r: damage(r.store, f"models/m/manifests/{r.version('m', 2).manifest}.json"),
        [("models/m/manifests/", "which is not its name")],
    ),
    "a blob gone": (
        lambda r: r.store.discard(blob(r, "key")),
        [("blobs/", "is missing; m@2 needs it as key")],
    ),
    "a shared blob cut": (
        lambda r: rewrite(r.store, blob(r, "config.json"), lambda data: data[:-1]),
        [("blobs/", "has 1 bytes, recorded are 2; m@1 needs it as config.json")],
    ),
    "an entry gone": (
        lambda r: r.store.discard(ENTRY.format(1)),
        [("models/m/aliases/champion", "lacks 1"), (ENTRY.format(2), "does not continue the entry before it")],
    ),
    "history rewritten": (
        lambda r: rewrite(r.store, ENTRY.format(1), entry_for(2)),
        [(ENTRY.format(2), "does not continue the entry before it")],
    ),
    "an entry for nothing": (
        lambda r: rewrite(r.store, ENTRY.format(2), entry_for(9)),
        [(ENTRY.format(2), "means version 9, which is not there")],
    ),
    "an entry that is none": (
        lambda r: rewrite(r.store, ENTRY.format(2), lambda _: b"x"),
        [(ENTRY.format(2), "other bytes than were written")],
    ),
    "an entry with another byte": (
        lambda r: damage(r.store, ENTRY.format(1)),
        [(ENTRY.format(1), "other bytes than were written")],
    ),
    "a ledger's entry gone": (
        lambda r: r.store.discard(f"{LEDGER}/00000001.json"),
        [(LEDGER, "lacks 1")],
    ),
    "a ledger's entry with another byte": (
        lambda r: damage(r.store, f"{LEDGER}/00000002.json"),
        [(f"{LEDGER}/00000002.json", "other bytes than were written")],
    ),
    "an alias that cannot be": (
        lambda r: r.store.create("models/m/aliases/latest/00000001.json", b"{}"),
        [("models/m/aliases/latest", "already mean versions")],
    ),
    "a lease that is none": (
        lambda r: r.store.create("leases/x-00000001.json", b"x"),
        [("leases", "other bytes than were written")],
    ),
    "a model that cannot be": (
        lambda r: r.store.create("models/M/x", b""),
        [("models/M", "model name 'M'")],
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_named_and_nothing_else(registry: ModelRegistry, kind: str):
    harm, said = DAMAGES[kind]
    harm(registry)
    faults = fsck(registry).faults
    assert len(faults) == len(said), faults
    for fault, (path, problem) in zip(faults, said, strict=True):
        assert fault.path.startswith(path)
        assert problem in fault.problem


EVIL = ["../evil", "/etc/evil", "a/../../evil", "a\\b", "", "plots", "manifest.json", "config.json", "a\nb"]


def test_a_manifest_that_no_folder_can_hold_is_a_fault_of_its_version_alone(tmp_path: Path):
    """Sealed and hashed properly, as by somebody who may write to the bucket."""
    registry = ModelRegistry(LocalStore(tmp_path / "r"))
    for key in "abc":
        publish(registry.store, tmp_path, key, {**FILES, "key": key})
    version = registry.version("m", 2)
    original = registry.store.read(f"models/m/manifests/{version.manifest}.json") or b""
    for path in EVIL:
        content = json.loads(original)
        file = next(file for file in content["files"] if file["path"] == "model.safetensors")
        content["files"].append({**file, "path": path})
        data = json.dumps(content).encode()
        evil = version.model_copy(update={"manifest": hashlib.sha256(data).hexdigest()})
        registry.store.create(f"models/m/manifests/{evil.manifest}.json", data)
        rewrite(registry.store, "models/m/versions/00000002.json", lambda _, evil=evil: record_bytes(evil))
        found = fsck(registry)
        assert found.versions == 3
        (fault,) = found.faults
        assert fault.path == f"models/m/manifests/{evil.manifest}.json"
        assert fault.problem.startswith("m@2: ")
        assert "\n" not in fault.problem
        for read in (registry.manifest, registry.verify, lambda v: registry.pull(v, tmp_path / "out")):
            with pytest.raises(IntegrityError, match="m@2"):
                read(registry.version("m", 2))
        assert not (tmp_path / "out").exists()
    assert registry.pull(registry.version("m", 3), tmp_path / "other")


def test_bytes_that_changed_are_found_by_reading_them(registry: ModelRegistry):
    damage(registry.store, blob(registry, "key"))
    assert fsck(registry).faults == ()
    (fault,) = fsck(registry, deep=True).faults
    assert fault.path == blob(registry, "key")
    assert "other bytes than its name says" in fault.problem


def test_what_no_version_needs_is_listed_and_no_fault(registry: ModelRegistry):
    registry.store.create("blobs/sha256/ab/" + "ab" * 32, b"x")
    registry.store.create("models/m/manifests/" + "cd" * 32 + ".json", b"{}")
    registry.store.create("probes/left.json", b"{}")
    found = fsck(registry)
    assert found.faults == ()
    assert set(found.unreferenced) == {
        "blobs/sha256/ab/" + "ab" * 32,
        "models/m/manifests/" + "cd" * 32 + ".json",
        "probes/left.json",
    }


def test_temporary_files_of_the_dead(tmp_path: Path):
    store = LocalStore(tmp_path / "r")
    publish(store, tmp_path, "a", FILES)
    (tmp_path / "r" / ".tmp" / "host-1-x").write_bytes(b"half")
    assert fsck(ModelRegistry(store)).temporary == (".tmp/host-1-x",)
    assert (tmp_path / "r" / ".tmp" / "host-1-x").exists()
