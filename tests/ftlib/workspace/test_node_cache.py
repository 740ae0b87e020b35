"""A node's cache: filled once by any number of processes and threads, kept within its quota, never under who reads."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from flows.models.places import model_folder
from ftlib.errors import ModelError, StorageError
from ftlib.merging.siblings import find_sibling
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import locate
from ftlib.models.reference import ModelRef
from ftlib.registry import ModelRegistry
from ftlib.storage import LocalStore
from ftlib.storage.cache_room import Room
from ftlib.storage.locks import exclusive
from ftlib.storage.node_cache import NodeView, local_path, node_view
from ftlib.storage.place import Place
from ftlib.storage.store import Store
from ftlib.storage.trees import Tree, create_tree, tree_of
from tests.ftlib.storage.fault_proxy import Call, FaultProxy, slow
from tests.ftlib.workspace.kit import FILES, Made, Stage, build, ended, files_in, forked, machine


def put(store: Store, folder: Path, name: str, *files: bytes) -> str:
    """Upload a tree of these files and return its key."""
    key = f"stages/stage/{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    folder = folder / f"made-{name}"
    folder.mkdir()
    for i, data in enumerate(files):
        (folder / str(i)).write_bytes(data)
    create_tree(store, key, folder, tree_of(folder, {}))
    return key


def view_of(place: str, cache: Path, endpoint: str) -> NodeView:
    machine(place, cache, endpoint)
    return node_view(Place.parse(place))


def blobs(cache: Path) -> set[str]:
    return {path.name for path in cache.glob("blobs/*/*") if path.is_file()}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def download(call: Call) -> bool:
    return call.spot == ("get", "blobs")


@pytest.mark.slow
@pytest.mark.parametrize("many", [1, 6])
def test_any_number_of_processes_and_threads_fetch_every_blob_once(
    place: str,
    proxy: FaultProxy,
    tmp_path: Path,
    many: int,
) -> None:
    view = view_of(place, tmp_path / "a", proxy.url)
    data = [os.urandom(1000) for _ in range(3)]
    key = put(view.store, tmp_path, "one", *data)
    proxy.clear()
    proxy.plan(slow(0.2), where=download)

    def read() -> None:
        machine(place, tmp_path / "node", proxy.url)
        with ThreadPoolExecutor(3) as pool:
            folders = [*pool.map(lambda _: local_path(f"{place}/{key}"), range(3))]
        assert {name: sha(one) for name, one in files_in(folders[0]).items()} == {
            str(i): sha(one) for i, one in enumerate(data)
        }

    children = [forked(read) for _ in range(many)]
    assert [ended(child) for child in children] == [0] * many
    assert len([call for call in proxy.calls if download(call)]) == len(data)
    left = [path for path in (tmp_path / "node").rglob("*") if path.suffix in (".part", ".incoming", ".entering")]
    assert [*left, *(tmp_path / "node" / "blobs").rglob("*.lock")] == []


class TestQuota:
    def test_what_is_least_recently_used_goes_and_what_is_held_stays(
        self,
        place: str,
        s3_endpoint: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        store = view_of(place, tmp_path / "a", s3_endpoint).store
        shared = os.urandom(400)
        contents = {name: [os.urandom(1000), shared] for name in ("held", "old", "used", "new")}
        key = {name: put(store, tmp_path, name, *files) for name, files in contents.items()}
        view, cache = view_of(place, tmp_path / "node", s3_endpoint), tmp_path / "node"
        monkeypatch.setenv("REGLAGE_CACHE_GB", "3600e-9")
        for seconds, name in enumerate(("held", "old", "used")):
            view.local(key[name])
            os.utime(view.root / f"{key[name]}.held", (seconds, seconds))
            if name != "held":
                view.release(key[name])
        view.local(key["used"])
        view.release(key["used"])
        assert blobs(cache) == {sha(one) for name in ("held", "old", "used") for one in contents[name]}
        mapped = mmap.mmap(os.open(view.root / key["old"] / "0", os.O_RDONLY), 0, access=mmap.ACCESS_READ)
        new = view.local(key["new"])
        assert (new / "0").read_bytes() == contents["new"][0]
        assert blobs(cache) == {sha(one) for name in ("held", "used", "new") for one in contents[name]}
        assert not (view.root / key["old"]).exists()
        assert mapped[:] == contents["old"][0]  # who has it open reads on
        assert (view.local(key["old"]) / "0").read_bytes() == contents["old"][0]  # who asks again has it fetched again

    @pytest.mark.slow
    def test_another_process_that_has_asked_for_it_keeps_it(
        self,
        place: str,
        s3_endpoint: str,
        tmp_path: Path,
    ) -> None:
        key = put(view_of(place, tmp_path / "a", s3_endpoint).store, tmp_path, "one", b"data")
        ready, go = tmp_path / "ready", tmp_path / "go"

        def hold() -> None:
            folder = view_of(place, tmp_path / "node", s3_endpoint).local(key)
            ready.touch()
            while not go.exists():
                time.sleep(0.02)
            assert (folder / "0").read_bytes() == b"data"

        child = forked(hold)
        while not ready.exists():
            time.sleep(0.02)
        view = view_of(place, tmp_path / "node", s3_endpoint)
        assert not view.room.make(2**62, full=True)
        go.touch()
        assert ended(child) == 0
        assert view.room.make(2**62, full=True)
        assert blobs(tmp_path / "node") == set()

    @pytest.mark.parametrize("asked", ["many", "-1", "nan", "inf", ""])
    def test_a_quota_that_is_no_number_says_so(
        self, tmp_path: Path, asked: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REGLAGE_CACHE_GB", asked)
        with pytest.raises(StorageError, match="give a number of gigabytes"):
            NodeView(Place.parse("s3://bucket/work"), tmp_path).room.quota()


class Full:
    """A disk that has no room until something was deleted from it."""

    def __init__(self, store: Any, cache: Path, room: int) -> None:
        self.store, self.cache, self.room = store, cache, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def get_file(self, path: str, target: Path, sha256: str) -> None:
        if sum(file.stat().st_size for file in self.cache.glob("blobs/*/*")) >= self.room:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise StorageError(f"{target}: {os.strerror(errno.ENOSPC)}; free space or choose another place") from error
        self.store.get_file(path, target, sha256)


@pytest.mark.slow
def test_on_a_full_disk_what_nobody_holds_goes_whatever_the_quota_and_else_it_says_so(
    place: str,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    store = view_of(place, tmp_path / "a", s3_endpoint).store
    keys = [put(store, tmp_path, name, name.encode() * 500) for name in ("a", "b")]
    view = view_of(place, tmp_path / "node", s3_endpoint)
    view.store = Full(view.store, tmp_path / "node", 500)  # type: ignore[assignment]
    view.local(keys[0])
    with pytest.raises(StorageError, match=r"No space left on device; .*set REGLAGE_CACHE to a folder on another disk"):
        view.local(keys[1])
    view.release(keys[0])
    assert (view.local(keys[1]) / "0").read_bytes() == b"b" * 500
    assert blobs(tmp_path / "node") == {sha(b"b" * 500)}


@pytest.mark.slow
def test_blobs_that_are_evicted_all_the_while_are_fetched_again(
    place: str,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    """One process evicts without pause; others ask for trees, read them and let them go."""
    store = view_of(place, tmp_path / "a", s3_endpoint).store
    keys = [put(store, tmp_path, str(n), bytes([n]) * 1000, b"common") for n in range(4)]
    stop = tmp_path / "stop"

    def evict() -> None:
        view = view_of(place, tmp_path / "node", s3_endpoint)
        while not stop.exists():
            view.room.make(2**62, full=True)
            time.sleep(0.0)

    def read() -> None:
        view = view_of(place, tmp_path / "node", s3_endpoint)
        for turn in range(40):
            number = turn % 4
            folder = view.local(keys[number])
            assert files_in(folder) == {"0": bytes([number]) * 1000, "1": b"common"}
            view.release(keys[number])

    evictor = forked(evict)
    readers = [forked(read) for _ in range(3)]
    codes = [ended(child) for child in readers]
    stop.touch()
    assert [*codes, ended(evictor)] == [0, 0, 0, 0]


@pytest.mark.slow
def test_a_fork_has_locks_and_connections_of_its_own(
    place: str,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    view = view_of(place, tmp_path / "node", s3_endpoint)
    keys = [put(view.store, tmp_path, name, name.encode()) for name in ("a", "b")]
    view.local(keys[0])
    store, taken = view.store, threading.Event()

    def hold_the_lock() -> None:
        with view._lock:
            taken.set()
            time.sleep(2)

    threading.Thread(target=hold_the_lock, daemon=True).start()
    taken.wait()

    def read() -> None:
        os.environ["AWS_ENDPOINT_URL"] = s3_endpoint
        assert view.store is not store
        assert (view.local(keys[1]) / "0").read_bytes() == b"b"

    assert ended(forked(read)) == 0


@pytest.mark.slow
def test_what_is_no_output_in_a_bucket_and_what_is_not_there_say_so(
    place: str,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    machine(place, tmp_path / "node", s3_endpoint)
    assert local_path("/a/path") == Path("/a/path")
    with pytest.raises(StorageError, match="is no output of a stage in a bucket"):
        local_path(f"{place}/models/one")
    with pytest.raises(StorageError, match="is not there, or not any more: run again"):
        local_path(f"{place}/stages/train/0123456789abcdef/model")


@pytest.mark.slow
def test_a_record_may_not_name_a_file_outside(
    place: str,
    s3_endpoint: str,
    tmp_path: Path,
) -> None:
    from ftlib.storage.sealed_records import record_bytes
    from ftlib.storage.trees import TreeFile, record_path

    view = view_of(place, tmp_path / "node", s3_endpoint)
    key = "stages/stage/0123456789abcdef"
    evil = TreeFile(path="../../../evil", sha256=sha(b"x"), bytes=1)
    view.store.create(record_path(key), record_bytes(Tree(files=(evil,), nonce="n", who="w", at="t")))
    with pytest.raises(StorageError, match="is not a safe path"):
        view.local(key)


class TestDamage:
    def test_a_file_that_a_power_cut_tore_is_fetched_again(self, place: str, s3_endpoint: str, tmp_path: Path) -> None:
        key = put(view_of(place, tmp_path / "a", s3_endpoint).store, tmp_path, "one", b"torn", b"whole")
        view = view_of(place, tmp_path / "b", s3_endpoint)
        for torn in (view._blob(sha(b"torn")), view.root / key / "0"):  # pyright: ignore[reportPrivateUsage]
            torn.parent.mkdir(parents=True, exist_ok=True)
            torn.write_bytes(b"")
            fresh = NodeView(view.place, view.cache, s3_endpoint)
            assert files_in(fresh.local(key)) == {"0": b"torn", "1": b"whole"}
            assert view._blob(sha(b"torn")).read_bytes() == b"torn"  # pyright: ignore[reportPrivateUsage]
            fresh.release_all()
            torn.unlink()

    def test_what_is_damaged_is_made_again_by_deleting_what_is_named(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        work = machine(place, tmp_path / "a", s3_endpoint)
        (work.root / "outcomes").mkdir(parents=True)
        (work.root / "outcomes/x.txt").write_bytes(b"hello")
        made = (work.once(Stage(), Made, build).uri, Path("outcomes/x.txt"))
        work.share(made[1])
        for damaged in (b"w" * 1000, b"hello"):
            digest = sha(damaged)
            bucket.Object(f"work/blobs/sha256/{digest[:2]}/{digest}").put(Body=damaged[::-1].upper())
        for i, ask in enumerate((lambda _: local_path(made[0]), lambda work: work.shared(made[1]))):
            with pytest.raises(StorageError, match="put the object back, or delete both") as refused:
                ask(machine(place, tmp_path / f"b{i}", s3_endpoint))
            named = [word.rstrip(":") for word in str(refused.value).split() if word.startswith("s3://")]
            assert len(named) == 2
            for uri in named:
                bucket.Object(uri.removeprefix(f"s3://{bucket.name}/")).load()  # it is there, and is deleted
                bucket.Object(uri.removeprefix(f"s3://{bucket.name}/")).delete()
        work = machine(place, tmp_path / "a", s3_endpoint)
        work.once(Stage(), Made, build)
        work.share(made[1])
        work = machine(place, tmp_path / "c", s3_endpoint)
        assert files_in(local_path(made[0])) == FILES
        assert work.shared(made[1]).read_bytes() == b"hello"


def test_a_shared_file_that_is_there_is_held_before_it_is_given(place: str, s3_endpoint: str, tmp_path: Path) -> None:
    work = machine(place, tmp_path / "a", s3_endpoint)
    (work.root / "outcomes").mkdir(parents=True)
    (work.root / "outcomes/x").write_bytes(b"table")
    work.share("outcomes/x")
    view = view_of(place, tmp_path / "b", s3_endpoint)
    work.shared("outcomes/x")
    view.release_all()  # the process that fetched it has ended
    held = work.shared("outcomes/x")
    Room(tmp_path / "b").make(10, full=True)  # another process of the node
    assert held.read_bytes() == b"table"


def test_what_another_machine_dropped_is_not_the_newest(place: str, s3_endpoint: str, tmp_path: Path) -> None:
    work = machine(place, tmp_path / "a", s3_endpoint)
    (work.root / "runs").mkdir(parents=True)
    (work.root / "runs/r").write_bytes(b"one")
    assert not work.newest("runs/r").exists()  # it has not been sent, so nobody else has it
    work.replace("runs/r")
    assert work.newest("runs/r").read_bytes() == b"one"
    machine(place, tmp_path / "b", s3_endpoint).drop("runs/r")
    assert not machine(place, tmp_path / "a", s3_endpoint).newest("runs/r").exists()


def test_a_stages_output_is_named_as_a_model(place: str, s3_endpoint: str, tmp_path: Path) -> None:
    uri = machine(place, tmp_path / "a", s3_endpoint).once(Stage(), Made, build).uri
    machine(place, tmp_path / "b", s3_endpoint)
    for name in (uri, f"{uri}/", f"{uri}/model", f"{uri}/model/"):
        for folder in (locate(ModelRef(path=name)), model_folder(name, Place.parse("registry"))):
            assert sorted(path.name for path in folder.iterdir()) == ["same", "weights"]
            assert not (folder.parent / "notes/a/b.txt").exists()  # only the model is fetched
    with pytest.raises(ModelError, match="other holds no model; give the output of a stage that makes one"):
        locate(ModelRef(path=f"{uri}/other"))


def test_what_ended_processes_left_half_made_is_cleared_when_it_is_old(tmp_path: Path) -> None:
    view = tmp_path / "work/0123"
    left = ["attempts/aa", "attempts/bb", "attempts/cc", "stages/ingest/dd.work", "stages/ingest/ee.work"]
    for name in left:
        (view / name / "checkpoints").mkdir(parents=True)
        (view / name / "checkpoints/rank-0").write_bytes(b"weights")
        for path in (view / name / "checkpoints/rank-0", view / name / "checkpoints", view / name):
            os.utime(path, (0, 0))
    (view / "attempts/bb/checkpoints/rank-1").write_bytes(b"of now")
    (view / "stages/train").mkdir()
    with (
        exclusive(view / "stages/train/cc.lock", wait=False),
        exclusive(view / "stages/ingest/ee.lock", wait=False),
    ):
        Room(tmp_path).make(10)
    assert [name for name in left if (view / name).exists()] == ["attempts/bb", "attempts/cc", "stages/ingest/ee.work"]


def test_a_sibling_is_named_by_its_output_in_a_bucket(place: str, s3_endpoint: str, tmp_path: Path) -> None:
    def train(folder: Path) -> Checkpoint:
        build(folder)
        told: dict[str, Any] = {"weights": "w", "parent": "p", "tokenizer": "t", "config": "c", "phase": "tune"}
        return Checkpoint(**told, fresh_head=False, labels=("a",), parameters=1, trained_parameters=1)

    uri = machine(place, tmp_path / "a", s3_endpoint).once(Stage(), Checkpoint, train).uri
    machine(place, tmp_path / "b", s3_endpoint)
    sibling = find_sibling(uri, ModelRegistry(LocalStore(tmp_path / "registry")), tmp_path / "versions")
    assert (sibling.uri, sibling.weights) == (uri, "w")
    assert sorted(path.name for path in sibling.folder.iterdir()) == ["same", "weights"]
