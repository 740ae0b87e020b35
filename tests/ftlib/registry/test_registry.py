"""The protocol under races, kills, damage and liars; each against a folder and against an S3 server."""

import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ftlib.errors import IntegrityError, RecipeError, StorageError
from ftlib.registry import ModelRegistry, probe, transfers
from ftlib.registry import registry as publishing
from ftlib.registry.versions import FORMAT, MANIFEST, Format, Manifest, file_of, parse_spec
from ftlib.storage import LocalStore, Place, S3Store, Store, open_store
from ftlib.storage.sealed_records import record_bytes
from tests.ftlib.registry.kit import FILES, Dying, child, damage, dying_step, exit_code, fine, publish, stored


class TestPublish:
    def test_what_is_published_comes_back_as_it_was(self, store: Store, tmp_path: Path):
        version, created = publish(store, tmp_path, "k", FILES)
        assert (str(version), created) == ("m@1", True)
        registry = ModelRegistry(store)
        assert registry.pull(version, tmp_path / "out")
        got = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert {name: path.read_text() for name, path in got.items() if name != MANIFEST} == FILES
        assert registry.models() == ["m"]
        assert registry.version("m") == registry.version("m", 1) == version
        assert registry.verify(version) == []

    def test_a_pulled_folder_can_be_checked_with_sha256sum(self, store: Store, tmp_path: Path):
        version, _ = publish(store, tmp_path, "k", FILES)
        ModelRegistry(store).pull(version, tmp_path / "out")
        manifest = json.loads((tmp_path / "out" / MANIFEST).read_bytes())
        lines = "".join(f"{file['sha256']}  {file['path']}\n" for file in manifest["files"])
        subprocess.run(["sha256sum", "--check"], input=lines, text=True, cwd=tmp_path / "out", check=True)
        digest = subprocess.check_output(["sha256sum", MANIFEST], text=True, cwd=tmp_path / "out").split()[0]
        assert digest == version.manifest

    def test_the_same_key_is_the_same_version(self, store: Store, tmp_path: Path):
        first, _ = publish(store, tmp_path, "k", FILES)
        publish(store, tmp_path, "other", {"a": "b"})
        before = stored(store, "models")
        checked: list[Path] = []
        again, created = publish(store, tmp_path, "k", {"not": "looked at"}, checked.append)
        assert (again, created) == (first, False)
        assert len(checked) == 1
        assert stored(store, "models") == before

    def test_what_has_not_changed_is_not_sent_again(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        shards = {f"shard-{n}": f"{n}" * 1000 for n in range(8)}
        publish(store, tmp_path, "a", shards)
        sent: list[int] = []

        class Counting:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def put_file(self, source: Path, path: str, sha256: str) -> None:
                sent.append(source.stat().st_size)
                store.put_file(source, path, sha256)

        publish(Counting(), tmp_path, "b", {**shards, "shard-3": "x" * 900})
        assert sent == [900]

    def test_a_check_that_fails_leaves_nothing_to_see(self, store: Store, tmp_path: Path):
        def wrong(_: Path) -> None:
            raise IntegrityError("logits differ")

        with pytest.raises(IntegrityError, match="logits differ"):
            publish(store, tmp_path, "k", FILES, wrong)
        assert ModelRegistry(store).models() == ["m"] or ModelRegistry(store).models() == []
        assert ModelRegistry(store).versions("m") == []
        version, created = publish(store, tmp_path, "k", FILES)
        assert (version.version, created) == (1, True)

    def test_racing_publishers_get_one_version_each_without_gaps(self, store: Store, tmp_path: Path):
        with ThreadPoolExecutor(8) as pool:
            versions = list(pool.map(lambda n: publish(store, tmp_path, f"k{n}", {"a": f"{n}"})[0], range(8)))
        assert sorted(version.version for version in versions) == list(range(1, 9))
        assert {v.key for v in ModelRegistry(store).versions("m")} == {f"k{n}" for n in range(8)}

    def test_racing_twins_get_the_same_version(self, store: Store, tmp_path: Path):
        ready = threading.Barrier(6)  # in the check, where each has found no version with the key

        def one(_: int):
            return publish(store, tmp_path, "k", FILES, lambda _: (ready.wait(30), None)[1])

        with ThreadPoolExecutor(6) as pool:
            both = list(pool.map(one, range(6)))
        assert {version.version for version, _ in both} == {1}
        assert [created for _, created in both].count(True) == 1

    def test_a_lost_reply_to_the_commit_is_our_own_version(self, store: Store, tmp_path: Path):
        class LostReplies:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def create(self, path: str, data: bytes) -> bool:
                store.create(path, data)
                return False  # what a retry sees

        version, created = publish(LostReplies(), tmp_path, "k", FILES)
        assert (version.version, created) == (1, True)
        assert len(ModelRegistry(store).versions("m")) == 1

    def test_what_a_version_lost_is_restored_by_publishing_it_again(self, store: Store, tmp_path: Path):
        version, _ = publish(store, tmp_path, "k", FILES)
        manifest = ModelRegistry(store).manifest(version)
        for path in (manifest.path, manifest.files[0].blob):
            store.discard(path)
        assert publish(store, tmp_path, "k", FILES) == (version, False)
        assert ModelRegistry(store).manifest(version) == manifest
        assert ModelRegistry(store).verify(version) == []

    def test_a_blob_that_rotted_since_is_replaced_by_its_right_bytes(self, store: Store, tmp_path: Path):
        version, _ = publish(store, tmp_path, "a", FILES)
        damage(store, ModelRegistry(store).manifest(version).files[1].blob)
        assert [fault.path for fault in ModelRegistry(store).verify(version)] == ["model.safetensors"]
        publish(store, tmp_path, "b", FILES)
        assert ModelRegistry(store).verify(version) == []


class TestPull:
    @pytest.mark.parametrize("victim", ["blob", "manifest", "missing"])
    def test_damage_is_found_and_nothing_appears(self, store: Store, tmp_path: Path, victim: str):
        version, _ = publish(store, tmp_path, "k", FILES)
        registry = ModelRegistry(store)
        blob = registry.manifest(version).files[1].blob
        if victim == "missing":
            store.discard(blob)
        else:
            damage(store, blob if victim == "blob" else f"models/m/manifests/{version.manifest}.json")
        with pytest.raises(IntegrityError):
            registry.pull(version, tmp_path / "new" / "out")
        assert not (tmp_path / "new" / "out").exists()
        assert list((tmp_path / "new").glob("*")) + list((tmp_path / "new").glob(".*")) == []

    def test_damage_on_the_way_only_is_downloaded_again(self, store: Store, tmp_path: Path):
        version, _ = publish(store, tmp_path, "k", FILES)
        failures = iter([True])

        class Flaky:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def get_file(self, path: str, target: Path, sha256: str) -> None:
                if next(failures, False):
                    raise IntegrityError("flipped on the way")
                store.get_file(path, target, sha256)

        assert ModelRegistry(Flaky()).pull(version, tmp_path / "out")

    def test_a_second_pull_is_done_and_another_folder_is_not_touched(self, store: Store, tmp_path: Path):
        version, _ = publish(store, tmp_path, "k", FILES)
        registry = ModelRegistry(store)
        assert registry.pull(version, tmp_path / "out")
        assert not registry.pull(version, tmp_path / "out")
        for change in (
            lambda: (tmp_path / "out" / "mine.txt").write_text("x"),
            lambda: (tmp_path / "out" / "config.json").write_text("changed"),
            lambda: (tmp_path / "out" / "config.json").unlink(),
        ):
            change()
            with pytest.raises(StorageError, match="pull into another folder"):
                registry.pull(version, tmp_path / "out")
        assert (tmp_path / "out" / "mine.txt").read_text() == "x"

    @pytest.mark.parametrize("same", [True, False])
    def test_of_two_that_pull_at_once_the_later_finds_the_first_ones(self, store: Store, tmp_path: Path, same: bool):
        version, _ = publish(store, tmp_path, "k", FILES)
        out, first = tmp_path / "cache" / "out", iter([True])

        class Slow:
            """Whose first file takes as long as another process's whole pull, or as a user who puts something there."""

            def __getattr__(self, name: str):
                return getattr(store, name)

            def get_file(self, path: str, target: Path, sha256: str) -> None:
                store.get_file(path, target, sha256)
                if not next(first, False):
                    return
                if same:
                    assert ModelRegistry(store).pull(version, out)
                else:
                    out.mkdir()
                    (out / "mine.txt").write_text("x")

        if same:
            assert not ModelRegistry(Slow()).pull(version, out)
            assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.json", "plots", MANIFEST}
        else:
            with pytest.raises(StorageError, match="pull into another folder"):
                ModelRegistry(Slow()).pull(version, out)
            assert [path.name for path in out.iterdir()] == ["mine.txt"]
        assert list(out.parent.iterdir()) == [out]

    def test_it_has_its_name_only_once_all_of_it_is_on_the_disk(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        version, _ = publish(store, tmp_path, "k", FILES)
        fsync, rename, flushed, unflushed = os.fsync, Path.rename, set[int](), list[Path]()

        def note(descriptor: int) -> None:
            flushed.add(os.fstat(descriptor).st_ino)
            fsync(descriptor)

        def check(path: Path, target: Path) -> Path:
            unflushed.extend(inner for inner in (path, *path.rglob("*")) if inner.stat().st_ino not in flushed)
            flushed.clear()
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", note)
        monkeypatch.setattr(Path, "rename", check)
        ModelRegistry(store).pull(version, tmp_path / "out")
        assert unflushed == []
        assert flushed == {tmp_path.stat().st_ino}

    def test_an_empty_folder_is_filled(self, store: Store, tmp_path: Path):
        version, _ = publish(store, tmp_path, "k", FILES)
        (tmp_path / "out").mkdir()
        assert ModelRegistry(store).pull(version, tmp_path / "out")

    def test_a_folder_that_this_user_may_not_read_is_one_line(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        version, _ = publish(store, tmp_path, "k", FILES)
        (out := tmp_path / "out").mkdir()
        iterdir = Path.iterdir

        def refuse(path: Path) -> Iterator[Path]:
            if path == out:  # root ignores modes
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return iterdir(path)

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(StorageError, match=r"/out: Permission denied; this user may not: change its permissions"):
            ModelRegistry(store).pull(version, out)

    def test_a_manifest_cannot_write_outside(self, store: Store, tmp_path: Path):
        version, _ = publish(store, tmp_path, "k", FILES)
        evil = ModelRegistry(store).manifest(version).canonical().replace(b"plots/a.png", b"../../../evil")
        sha256 = hashlib.sha256(evil).hexdigest()
        store.create(f"models/m/manifests/{sha256}.json", evil)
        with pytest.raises(StorageError, match="not a safe path"):
            ModelRegistry(store).pull(version.model_copy(update={"manifest": sha256}), tmp_path / "out")


class TestReading:
    def test_what_is_not_there_is_named(self, store: Store, tmp_path: Path):
        registry = ModelRegistry(store)
        with pytest.raises(StorageError, match="there is no registry at"):
            registry.models()
        for key in "abc":
            publish(store, tmp_path, key, {"a": key})
        with pytest.raises(StorageError, match=r"no m@9; the versions are 1-3"):
            registry.version("m", 9)
        with pytest.raises(StorageError, match=r"no model 'n'; it has m"):
            registry.version("n")

    def test_a_model_whose_publish_was_killed_is_not_offered(self, store: Store, tmp_path: Path):
        publish(store, tmp_path, "a", FILES)
        store.create(f"models/emp/manifests/{'ab' * 32}.json", b"{}")
        registry = ModelRegistry(store)
        for spec in ("emp", "emp@1", "emp@champion"):
            with pytest.raises(StorageError, match=r"has no version of 'emp' yet: .*; if none is going on, publish it"):
                registry.resolve(spec)
        with pytest.raises(StorageError, match=r"no model 'empp'; it has m$"):
            registry.version("empp")

    def test_another_format_is_refused(self, store: Store, tmp_path: Path):
        store.create("registry.json", record_bytes(Format(format=FORMAT + 1)))
        with pytest.raises(StorageError, match=f"has format {FORMAT + 1}, this program knows {FORMAT}"):
            ModelRegistry(store).models()

    def test_records_without_a_seal_are_of_another_format(self, store: Store, tmp_path: Path):
        store.create("registry.json", b'{"format": 1}')
        with pytest.raises(IntegrityError, match="is no record of this format"):
            ModelRegistry(store).models()

    def test_a_commit_copied_to_another_number_is_refused(self, store: Store, tmp_path: Path):
        publish(store, tmp_path, "k", FILES)
        store.create("models/m/versions/00000002.json", store.read("models/m/versions/00000001.json") or b"")
        with pytest.raises(IntegrityError, match="says it is m@1"):
            ModelRegistry(store).versions("m")

    @pytest.mark.parametrize("spec", ["", "@1", "m@", "m@0", "m@X", "m@-1", "M", "../m", "m/n", "m@1@2", "m" * 64])
    def test_what_names_no_version_is_refused(self, spec: str):
        with pytest.raises(RecipeError):
            parse_spec(spec)

    def test_a_spec_is_a_name_with_a_number_or_an_alias(self):
        assert parse_spec("my-model_2") == ("my-model_2", None)
        assert parse_spec("m@12") == ("m", 12)
        assert parse_spec("m@champion") == ("m", "champion")


class TestProbe:
    def test_a_good_store_passes_and_keeps_nothing(self, store: Store):
        for _ in range(5):
            probe(store)
        assert stored(store, "probes") == []

    def test_a_store_that_ignores_the_condition_is_refused(self, tmp_path: Path):
        class Ignores(LocalStore):
            def create(self, path: str, data: bytes) -> bool:
                super().discard(path)
                super().create(path, data)
                return True

        with pytest.raises(StorageError, match="let 2 of 2 writers create the same object"):
            publish(Ignores(tmp_path / "store"), tmp_path, "k", FILES)
        assert not (tmp_path / "store" / "models").exists()

    def test_a_store_that_looks_before_it_writes_is_refused(self, tmp_path: Path):
        class Races(LocalStore):
            """Check, then write: right alone, wrong together, as several servers were."""

            looked = threading.Barrier(16)

            def create(self, path: str, data: bytes) -> bool:
                taken = self.size(path) is not None
                self.looked.wait(30)
                return not taken and (super().create(path, data) or True)

        with pytest.raises(StorageError, match="let 16 of 16 writers"):
            probe(Races(tmp_path))

    def test_a_store_that_gives_back_something_else_is_refused(self, tmp_path: Path):
        class Forgets(LocalStore):
            def read(self, path: str) -> bytes | None:
                return b"something else"

        with pytest.raises(StorageError, match="does not give back"):
            probe(Forgets(tmp_path))

    def test_a_winner_whose_reply_was_lost_is_no_reason_to_refuse(self, tmp_path: Path):
        class LostReplies(LocalStore):
            def create(self, path: str, data: bytes) -> bool:
                super().create(path, data)
                return False

        probe(LostReplies(tmp_path))


def publish_and_die(store: Callable[[], Store], work: Path, point: int, where: str) -> None:
    """In a child: publish `work/staging`, and be killed at that point, between the store's calls or inside them."""
    transfers.FILES_AT_ONCE = 1  # so that the nth call is the same call every time
    if point >= 0:
        publishing.probe = lambda _: None  # its writers race, so its calls have no order
    if where == "inside":
        steps = itertools.count()
        for name in ("link", "fsync", "replace", "unlink"):
            setattr(os, name, dying_step(getattr(os, name), steps, point))
    opened = store()
    files = tuple(file_of(work / "staging", name) for name in ("a", "b"))
    manifest = Manifest(name="m", description="", files=files, metrics={}, lineage={})
    registry = ModelRegistry(Dying(opened, point) if where == "between" else opened)
    registry.publish(manifest, work / "staging", "k", fine, work)


class TestKills:
    """kill -9 at every call, before and after it; then publish again."""

    def kill_everywhere(self, make: Callable[[int], Store], tmp_path: Path, where: str) -> int:
        (tmp_path / "staging").mkdir()
        for name, text in {"a": "first", "b": "second"}.items():
            (tmp_path / "staging" / name).write_text(text)
        for point in range(200):
            code = exit_code(child(lambda n=point: publish_and_die(lambda: make(n), tmp_path, n, where)))
            if code == 0:
                return point
            assert code == -signal.SIGKILL
            self.check_whole_or_absent(make(point), tmp_path / f"pulled-{point}")
            assert exit_code(child(lambda n=point: publish_and_die(lambda: make(n), tmp_path, -1, where))) == 0
            self.check_exactly_one(make(point), tmp_path / f"after-{point}")
        raise AssertionError("still being killed at point 199")

    def check_whole_or_absent(self, store: Store, target: Path) -> None:
        if store.read("registry.json") is None:
            return
        for version in ModelRegistry(store).versions("m"):
            assert ModelRegistry(store).verify(version) == []
            ModelRegistry(store).pull(version, target)

    def check_exactly_one(self, store: Store, target: Path) -> None:
        registry = ModelRegistry(store)
        (version,) = registry.versions("m")
        assert registry.pull(version, target)
        assert (target / "a").read_text() == "first"
        referenced = {file.blob for file in registry.manifest(version).files}
        assert set(stored(store, "blobs")) == referenced
        assert stored(store, "models") == [
            f"models/m/manifests/{version.manifest}.json",
            "models/m/versions/00000001.json",
        ]

    @pytest.mark.slow
    def test_a_kill_between_calls_of_the_store_loses_nothing(self, tmp_path: Path):
        assert self.kill_everywhere(lambda n: LocalStore(tmp_path / f"r{n}"), tmp_path, "between") >= 24

    @pytest.mark.slow
    def test_a_kill_inside_a_call_of_a_folder_loses_nothing_and_leaves_no_temporary_file(self, tmp_path: Path):
        points = self.kill_everywhere(lambda n: LocalStore(tmp_path / f"r{n}"), tmp_path, "inside")
        assert points >= 20
        assert [p.name for n in range(points) for p in (tmp_path / f"r{n}" / ".tmp").iterdir()] == []

    @pytest.mark.slow
    def test_a_kill_between_calls_to_s3_loses_nothing(self, tmp_path: Path, bucket, s3_endpoint: str):
        points = self.kill_everywhere(lambda n: S3Store(bucket.name, f"r{n}", s3_endpoint), tmp_path, "between")
        assert points >= 24


def test_racing_processes_are_gapless(store: Store, tmp_path: Path, s3_endpoint: str):
    def publish_four(who: int) -> None:
        ours = open_store(Place.parse(store.uri, s3_endpoint))  # a connection of its own
        for n in range(4):
            publish(ours, tmp_path, f"{who}-{n}", {"a": f"{who} {n}"})

    children = [child(lambda who=who: publish_four(who)) for who in range(4)]
    assert [exit_code(pid) for pid in children] == [0, 0, 0, 0]
    registry = ModelRegistry(store)
    assert [v.version for v in registry.versions("m")] == list(range(1, 17))
    for version in registry.versions("m"):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        registry.pull(version, tmp_path / "out")
        assert (tmp_path / "out" / "a").read_text() == version.key.replace("-", " ")


def test_kill_during_pull_shows_nothing(tmp_path: Path):
    version, _ = publish(LocalStore(tmp_path / "store"), tmp_path, "k", FILES)
    script = f"""
import os, signal
from pathlib import Path
from ftlib.registry import ModelRegistry
from ftlib.storage import LocalStore
Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
registry = ModelRegistry(LocalStore(Path({str(tmp_path / "store")!r})))
registry.pull(registry.version("m"), Path({str(tmp_path / "out")!r}))
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert not (tmp_path / "out").exists()
    assert ModelRegistry(LocalStore(tmp_path / "store")).pull(version, tmp_path / "out")
    assert os.listdir(tmp_path / "out") != []
