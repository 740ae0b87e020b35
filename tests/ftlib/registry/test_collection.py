"""What is deleted, when, and above all what never is."""

import itertools
import signal
import threading
from pathlib import Path

import pytest

from ftlib.errors import BusyError, IntegrityError, StorageError
from ftlib.registry import ModelRegistry
from ftlib.registry.fsck import fsck
from ftlib.registry.garbage_collection import DAY, Collector
from ftlib.storage import LocalStore, Store
from ftlib.storage.leases import lease
from ftlib.workspace.in_bucket import PLACE
from tests.ftlib.registry.kit import FILES, Dying, child, damage, exit_code, fine, publish, staged, stored

GARBAGE = "blobs/sha256/ab/" + "ab" * 32


class Days:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 1000 * DAY

    def __call__(self) -> float:
        return self.now

    def pass_(self, days: float) -> None:
        self.now += days * DAY


@pytest.fixture
def days() -> Days:
    return Days()


@pytest.fixture
def collector(store: Store, tmp_path: Path, days: Days) -> Collector:
    """A registry with one version and one blob that is garbage."""
    publish(store, tmp_path, "a", FILES)
    store.create(GARBAGE, b"garbage")
    return Collector(ModelRegistry(store), clock=days)


def run(collector: Collector, days: Days, *steps: float):
    """Collect now, and again after each of these numbers of days."""
    found = collector.collect(delete=True)
    for step in steps:
        days.pass_(step)
        found = collector.collect(delete=True)
    return found


class TestSweep:
    def test_garbage_goes_after_the_grace_period_and_nothing_else(self, collector: Collector, days: Days):
        before = stored(collector.registry.store, "models")
        assert run(collector, days, 3, 3).deleted == ()
        days.pass_(1)
        found = collector.collect(delete=True)
        assert (found.deleted, found.deleted_bytes, found.condemned) == ((GARBAGE,), 7, {})
        assert stored(collector.registry.store, "models") == before
        assert fsck(collector.registry, deep=True).faults == ()
        assert fsck(collector.registry).unreferenced == ()

    def test_looking_writes_nothing(self, collector: Collector, days: Days):
        root = [
            path for folder in ("blobs", "models", "gc", "leases") for path in stored(collector.registry.store, folder)
        ]
        for _ in range(3):
            found = collector.collect()
            assert (found.deleted, list(found.condemned)) == ((), [GARBAGE])
            days.pass_(10)
        now = [
            path for folder in ("blobs", "models", "gc", "leases") for path in stored(collector.registry.store, folder)
        ]
        assert now == root

    def test_without_grace_it_still_takes_two_runs(self, store: Store, collector: Collector, days: Days):
        eager = Collector(ModelRegistry(store), grace=0, clock=days)
        assert eager.collect(delete=True).deleted == ()
        assert eager.collect().deleted == (GARBAGE,)
        assert store.size(GARBAGE) == 7
        assert eager.collect(delete=True).deleted == (GARBAGE,)

    def test_what_became_needed_is_pardoned(self, store: Store, collector: Collector, days: Days, tmp_path: Path):
        manifest, folder = staged(tmp_path / "new", {"new": "bytes"})
        store.put_file(folder / "new", manifest.files[0].blob, manifest.files[0].sha256)
        assert manifest.files[0].blob in run(collector, days, 3, 3).condemned
        publish(store, tmp_path, "b", {"new": "bytes"})
        days.pass_(30)
        assert collector.collect(delete=True).deleted == (GARBAGE,)
        assert fsck(collector.registry, deep=True).faults == ()

    def test_everything_a_killed_or_refused_publish_left(
        self, store: Store, collector: Collector, days: Days, tmp_path
    ):
        def refuse(_: Path) -> None:
            raise IntegrityError("logits differ")

        with pytest.raises(IntegrityError):
            publish(store, tmp_path, "b", {"never": "seen"}, refuse)
        store.create("probes/left.json", b"{}")
        assert len(fsck(collector.registry).unreferenced) == 4
        assert len(run(collector, days, 4, 4).deleted) == 4
        assert fsck(collector.registry).unreferenced == ()

    def test_temporary_files_of_the_dead(self, tmp_path: Path, days: Days):
        store = LocalStore(tmp_path / "r")
        publish(store, tmp_path, "a", FILES)
        left = tmp_path / "r" / ".tmp" / "host-1-x"
        left.write_bytes(b"half")
        assert Collector(ModelRegistry(store)).collect().temporary == (".tmp/host-1-x",)
        assert left.exists()
        anew = LocalStore(tmp_path / "r")  # of a process that has written nothing yet
        assert Collector(ModelRegistry(anew)).collect(delete=True).temporary == (".tmp/host-1-x",)
        assert not left.exists()

    def test_what_others_left_there_is_nobodys_garbage(self, store: Store, collector: Collector, days: Days):
        blob = next(path for path in stored(store, "blobs") if path != GARBAGE)
        strange = [
            "models/.ipynb_checkpoints/x",
            "models/m/manifests/@eaDir/x",
            "models/m/signatures/@eaDir/x",
            "models/m/aliases/.ipynb_checkpoints/x",
            f"{blob[:15]}@eaDir/x",
            f"{GARBAGE}.bak",
            "blobs/sha256/@eaDir/x",
        ]
        for path in strange:
            store.create(path, b"?")
        assert run(collector, days, 4, 4).deleted == (GARBAGE,)
        assert all(store.size(path) == 1 for path in strange)
        assert collector.registry.models() == ["m"]
        assert collector.registry.aliases("m") == []

    def test_versions_under_another_name_stop_everything(self, store: Store, collector: Collector, days: Days):
        run(collector, days, 4)
        store.create("models/m.bak/versions/00000001.json", b"{}")
        days.pass_(30)
        with pytest.raises(IntegrityError, match=r"models/m\.bak holds versions, and 'm\.bak' is no model's name"):
            collector.collect(delete=True)
        assert store.size(GARBAGE) == 7


class TestClocks:
    def test_one_wrong_clock_deletes_nothing(self, collector: Collector, days: Days):
        """Years ahead for one run, then right again: half the grace period is all that it can add."""
        run(collector, days)
        days.pass_(5000)
        assert collector.collect(delete=True).deleted == ()
        days.pass_(-5000)
        assert collector.collect(delete=True).deleted == ()
        days.pass_(3)
        assert collector.collect(delete=True).deleted == ()

    def test_a_clock_that_goes_back_only_delays(self, collector: Collector, days: Days):
        run(collector, days, 3, -100)
        assert run(collector, days, 3).deleted == ()
        assert run(collector, days, 1).deleted == (GARBAGE,)

    def test_the_clocks_of_publishers_are_never_looked_at(self, store: Store, collector: Collector, days: Days):
        wrong = iter(itertools.count(1e9, 1e6))
        with lease(store, (GARBAGE,), clock=lambda: next(wrong)) as renew:
            renew()
            assert run(collector, days, 0.5).condemned == {}


class TestLeases:
    def test_what_is_leased_is_kept_while_beats_come(self, store: Store, collector: Collector, days: Days):
        seconds = iter(itertools.count(0, 61))
        with lease(store, (GARBAGE,), clock=lambda: next(seconds)) as renew:
            for _ in range(8):
                renew()
                found = collector.collect(delete=True)
                assert (found.deleted, found.condemned, len(found.live_leases)) == ((), {}, 1)
                days.pass_(30)
        assert store.list("leases") == []
        assert run(collector, days, 4, 4).deleted == (GARBAGE,)

    def test_a_silent_lease_runs_out(self, store: Store, collector: Collector, days: Days):
        def die() -> None:
            with lease(store, (GARBAGE,)):
                signal.raise_signal(signal.SIGKILL)

        assert exit_code(child(die)) == -signal.SIGKILL
        assert len(run(collector, days, 0.4).live_leases) == 1
        found = run(collector, days, 0.5, 0.5)
        assert (found.live_leases, len(found.dead_leases), list(found.condemned)) == ((), 1, [GARBAGE])
        assert store.list("leases") == []
        assert run(collector, days, 4, 4).deleted == (GARBAGE,)

    def test_beats_are_not_more_than_one_a_minute(self, store: Store):
        now = [0.0]
        with lease(store, (), clock=lambda: now[0]) as renew:
            for now[0] in (10.0, 59.0, 61.0, 90.0, 122.0):
                renew()
            assert len(store.list("leases")) == 3

    def test_a_publisher_that_may_not_delete_still_publishes(self, store: Store, tmp_path: Path, days: Days):
        class NoDelete:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def discard(self, path: str) -> bool:
                return False

        version, _ = publish(NoDelete(), tmp_path, "a", FILES)
        collector = Collector(ModelRegistry(store), clock=days)
        assert len(run(collector, days).live_leases) == 1
        run(collector, days, 1, 1)
        assert store.list("leases") == []
        assert collector.registry.verify(version) == []


class TestRaces:
    def test_a_blob_that_vanishes_under_a_publisher_is_uploaded_again(self, store: Store, tmp_path: Path):
        """The collector had decided before it could see the lease, and deletes after our look."""

        class Vanishing:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def create(self, path: str, data: bytes) -> bool:
                if "/versions/" in path:
                    for name in stored(store, "blobs") + stored(store, "models/m/manifests"):
                        store.discard(name)
                return store.create(path, data)

        version, _ = publish(Vanishing(), tmp_path, "a", FILES)
        assert ModelRegistry(store).verify(version) == []

    def test_a_version_committed_during_the_sweep_is_kept(self, store: Store, tmp_path: Path, days: Days):
        """The collector stops between its marks; a publisher finds the condemned blob there and commits."""
        publish(store, tmp_path, "a", FILES)
        manifest, folder = staged(tmp_path / "s", {"new": "bytes"})
        store.put_file(folder / "new", manifest.files[0].blob, manifest.files[0].sha256)

        class Slow:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def create(self, path: str, data: bytes) -> bool:
                if path == "gc/00000003.json":
                    ModelRegistry(store).publish(manifest, folder, "b", fine, tmp_path)
                return store.create(path, data)

        collector = Collector(ModelRegistry(Slow()), clock=days)
        assert run(collector, days, 4, 4).deleted == ()
        assert fsck(ModelRegistry(store), deep=True).faults == ()

    def test_of_two_collectors_at_once_one_stops(self, store: Store, tmp_path: Path, days: Days):
        publish(store, tmp_path, "a", FILES)
        both = threading.Barrier(2)

        class Together:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def create(self, path: str, data: bytes) -> bool:
                both.wait(30)
                return store.create(path, data)

        outcomes: list[str] = []

        def collect() -> None:
            try:
                Collector(ModelRegistry(Together()), clock=days).collect(delete=True)
                outcomes.append("won")
            except BusyError as error:
                outcomes.append(str(error).rpartition(": ")[2])

        threads = [threading.Thread(target=collect) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["another collector made run 1 meanwhile; nothing was deleted", "won"]


class TestRefusals:
    def test_a_place_that_is_a_work_place_too_is_neither_collected_nor_published_to(
        self, store: Store, collector: Collector, days: Days, tmp_path: Path
    ):
        run(collector, days, 4)
        store.create(PLACE, b"{}")
        days.pass_(30)
        for delete in (False, True):
            with pytest.raises(StorageError, match=r"is a work place, too \(it has a place\.json\)"):
                collector.collect(delete=delete)
        assert store.size(GARBAGE) == 7
        with pytest.raises(StorageError, match="name a registry with a prefix of its own"):
            publish(store, tmp_path, "b", {"new": "bytes"})
        assert collector.registry.version_numbers("m") == [1]

    def test_an_unreadable_version_stops_everything(self, store: Store, collector: Collector, days: Days):
        run(collector, days, 4)
        damage(store, f"models/m/manifests/{collector.registry.version('m').manifest}.json")
        days.pass_(30)
        with pytest.raises(IntegrityError, match="is not its name"):
            collector.collect(delete=True)
        assert store.size(GARBAGE) == 7

    def test_a_lease_nobody_can_read_stops_everything(self, store: Store, collector: Collector, days: Days):
        store.create("leases/x-00000001.json", b"?")
        with pytest.raises(IntegrityError, match="other bytes than were written"):
            collector.collect(delete=True)

    def test_a_role_that_may_not_delete_is_told(self, store: Store, collector: Collector, days: Days):
        class NoDelete:
            def __getattr__(self, name: str):
                return getattr(store, name)

            def discard(self, path: str) -> bool:
                return False

        run(collector, days, 4)
        days.pass_(4)
        with pytest.raises(StorageError, match="needs s3:DeleteObject"):
            Collector(ModelRegistry(NoDelete()), clock=days).collect(delete=True)


@pytest.mark.slow
def test_kill_at_every_call_then_collect_again(tmp_path: Path):
    for point in itertools.count():
        days, store = Days(), LocalStore(tmp_path / f"r{point}")
        publish(store, tmp_path, f"a{point}", FILES)
        store.create(GARBAGE, b"garbage")
        store.create(GARBAGE.replace("ab", "cd"), b"more")
        run(Collector(ModelRegistry(store), clock=days), days, 4)
        days.pass_(4)
        dying = Collector(ModelRegistry(Dying(store, point)), clock=days)
        code = exit_code(child(lambda collector=dying: collector.collect(delete=True) and None))
        assert fsck(ModelRegistry(store), deep=True).faults == ()
        days.pass_(4)
        run(Collector(ModelRegistry(store), clock=days), days, 4)
        assert fsck(ModelRegistry(store), deep=True).unreferenced == ()
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert point >= 30
