"""What the collector of a work place in a bucket deletes and keeps, and who holds a name among machines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from ftlib.artifacts import Artifact
from ftlib.errors import BusyError, StorageError
from ftlib.fingerprint import Job
from ftlib.storage import S3Store, claims
from ftlib.storage.trees import blob_path
from ftlib.work_collection import (
    DAY,
    BucketCollector,
    Retention,
    WorkCollected,
    WorkPolicy,
    bucket_contents,
    in_bucket,
    needs,
)
from ftlib.work_collection.bucket_contents import BucketContents, look
from ftlib.workspace import InBucket, Workspace, add, overwrite


class Stage(Job):
    stage: ClassVar[str] = "stage"
    version: ClassVar[int] = 1

    name: str


class Made(Artifact):
    of: str = ""

    def digest(self) -> str:
        return self.of


def build(own: str, of: str = "") -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        folder.joinpath("own").write_text(own)
        folder.joinpath("same").write_text("of all")
        return Made(of=of)

    return make


@pytest.fixture
def machine(
    bucket: Any, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], InBucket]:
    """Open the place from a machine of that name."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setattr(claims, "PATIENCE", 0.4)
    monkeypatch.setattr(claims, "FIRST_LOOK", 0.05)
    monkeypatch.setattr(claims, "SECONDS_BETWEEN_BEATS", 0.1)

    def opened(name: str) -> InBucket:
        monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / name))
        work = Workspace(f"s3://{bucket.name}/work")
        assert isinstance(work, InBucket)
        return work

    return opened


def collected(work: InBucket, days: float, *, delete: bool = True, keep_days: float = 0.0) -> WorkCollected:
    collector = BucketCollector(work, WorkPolicy(keep_days=keep_days), later=days * DAY)
    return collector.collect(delete=delete)


def paths(found: WorkCollected) -> set[str]:
    return {item.path for item in found.garbage}


def test_records_go_first_and_blobs_that_nothing_names_by_later_runs(machine: Callable[[str], InBucket]) -> None:
    work = machine("one")
    below = work.once(Stage(name="below"), Made, build("below"))
    work.once(Stage(name="above"), Made, build("above", of=below.uri))
    lost = Stage(name="lost")
    work.once(lost, Made, build("lost"))
    used = {"steps": [{"stage": "stage", "fingerprint": Stage(name="above").fingerprint}]}
    for number in range(3):
        add(work, f"runs/tiny/history/2026112{number}.json", json.dumps(used).encode())
    overwrite(work, "runs/tiny/run.json", b"{}")
    with pytest.raises(StorageError, match="is no work place: it has no place"):
        BucketCollector(InBucket(f"{work}/elsewhere")).collect()
    assert paths(collected(work, 0.0)) == {"runs/tiny/history/20261120.json", "runs/tiny/history/20261121.json"}
    assert paths(collected(work, 3.0, delete=False, keep_days=14.0)) == set()
    # One run condemns the blobs, no run adds more than half a day, and the third deletes them.
    own = next(file.blob for file in work.view.tree(f"stages/stage/{lost.fingerprint}").files if file.path == "own")
    assert paths(collected(work, 3.0)) == {f"stages/stage/{lost.fingerprint}"}
    assert (work.has(lost), own in paths(collected(work, 9.0)), work.store.size(own)) == (False, False, 4)
    assert own in paths(collected(work, 15.0))
    assert work.store.size(own) is None
    other = machine("two")
    assert other.find(Stage(name="above"), Made)
    assert below.local(Path("same")).read_text() == "of all"
    assert other.once(lost, Made, build("again")).local(Path("own")).read_text() == "again"


def test_a_blob_that_a_collector_deletes_as_it_is_found_is_uploaded_again(
    machine: Callable[[str], InBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector had read the leases before, and deletes between our look and our record."""
    machine("one").once(Stage(name="first"), Made, build("first"))
    create = S3Store.create

    def after_a_collector(store: S3Store, path: str, data: bytes) -> bool:
        if path.startswith(("stages/", "shared/")):
            assert store.discard(blob_path(hashlib.sha256(b"of all").hexdigest()))
        return create(store, path, data)

    monkeypatch.setattr(S3Store, "create", after_a_collector)
    work = machine("two")
    work.once(Stage(name="second"), Made, build("second"))
    made = machine("three").find(Stage(name="second"), Made)
    assert made
    assert made.local(Path("same")).read_text() == "of all"
    work = machine("two")
    table = work.root / "outcomes" / "table"
    table.parent.mkdir()
    table.write_text("of all")
    work.share("outcomes/table")
    assert machine("four").shared("outcomes/table").read_text() == "of all"


def test_a_run_that_begins_while_blobs_are_deleted_keeps_what_it_found(
    machine: Callable[[str], InBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collector has read the records, and deletes one blob after the other; a whole run passes meanwhile."""
    monkeypatch.setattr(in_bucket, "SECONDS_BETWEEN_LOOKS", 0.0)
    work = machine("one")
    work.once(Stage(name="first"), Made, build("first"))
    work.forget(Stage(name="first"))
    collected(work, 0.0)
    collected(work, 6.0)
    discard = S3Store.discard

    def then_a_run(store: S3Store, path: str) -> bool:
        answer = discard(store, path)
        if path.startswith("blobs/"):
            monkeypatch.setattr(S3Store, "discard", discard)
            machine("two").once(Stage(name="second"), Made, build("first"))
        return answer

    monkeypatch.setattr(S3Store, "discard", then_a_run)
    collected(work, 12.0)
    found = machine("three").find(Stage(name="second"), Made)
    assert found
    assert {name: found.local(Path(name)).read_text() for name in ("own", "same")} == {"own": "first", "same": "of all"}


def test_what_goes_on_is_kept_and_a_role_that_may_not_delete_is_told_so(
    machine: Callable[[str], InBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    work, job = machine("one"), Stage(name="used")
    work.once(job, Made, build("used"))
    with work.hold("runs/tiny", wait=False):
        found = BucketCollector(work, WorkPolicy(keep_days=0.0)).collect()
        assert [item.needed_by[0] for item in found.kept] == ["a run that goes on, or waits"]
    monkeypatch.setattr(S3Store, "discard", lambda store, path: False)
    with pytest.raises(StorageError, match="may not be deleted: the collector's role needs s3:DeleteObject"):
        collected(work, 3.0)
    assert work.has(job)


def test_of_two_machines_one_holds_and_one_that_died_holding_is_taken_over(
    machine: Callable[[str], InBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    with machine("one").hold("runs/tiny", wait=False):
        two = machine("two")
        with pytest.raises(BusyError, match=r"runs-tiny is already going on: .*; wait for it or stop it"):
            two.hold("runs/tiny", wait=False).__enter__()
    # One that died says nothing any more, and cannot give its claim back.
    claims.create_beat(two.store, "runs-tiny", 7, "dead", "another node")
    with two.hold("runs/tiny", wait=False):
        pass
    claims.create_beat(two.store, "runs-tiny", 9, "dead", (two.root.parents[1] / "node.id").read_text())
    monkeypatch.setattr(claims, "PATIENCE", 1e9)  # of this node: its lock is free
    with two.hold("runs/tiny", wait=False):
        pass


def left_by_the_dead(work: InBucket) -> tuple[str, str]:
    """Leave what killed runs leave; return the attempt, and a blob that only its result names."""
    sha256 = hashlib.sha256(b"weights").hexdigest()
    blob = f"blobs/sha256/{sha256[:2]}/{sha256}"
    for path, data in {
        blob: b"weights",
        "attempts/00000000000000aa/curves/00000001.jsonl": b"{}",
        "attempts/00000000000000aa/checkpoints/step-00000001/manifest.json": b"{}",
        "attempts/00000000000000aa/result.json": json.dumps({"files": {"model/a": [sha256, 7]}}).encode(),
        "exchange/0123/rows-1": b"rows",
        "jobs/ingest-00aa.failed": b"{}",
    }.items():
        work.store.write(path, data)
    return "attempts/00000000000000aa", blob


def test_what_the_dead_left_goes_in_two_phases_and_what_its_result_names_after_it(
    machine: Callable[[str], InBucket], tmp_path: Path
) -> None:
    work = machine("one")
    work.settle()
    attempt, blob = left_by_the_dead(work)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "own").write_text("own")
    carried = work.carry(tmp_path / "model").rpartition("/work/")[2]
    for path in ("forgotten/aa.json", "pins/aa.json", "listings/aa.json"):
        add(work, path, path.encode())
    left = {attempt, "exchange/0123", "jobs/ingest-00aa.failed"}
    assert paths(collected(work, 1.0, keep_days=14.0)) == set()  # the attempt may be resumed, the rest is watched
    first = collected(work, 20.0)
    assert paths(first) == {carried, "listings/aa.json"}
    assert {item.path for item in first.watched} >= left
    assert blob not in {item.path for item in first.watched}
    collected(work, 20.5)
    assert paths(collected(work, 21.5)) >= left
    assert not [path for path in look(work).things if path.startswith(("attempts/", "exchange/"))]
    assert work.store.size(blob) == 7
    for days in (23.0, 25.0, 27.0):
        collected(work, days)
    assert work.store.size(blob) is None
    assert (work.names("forgotten"), work.names("pins"), work.names("listings")) == (["aa.json"], ["aa.json"], [])


@pytest.mark.slow
def test_an_attempt_that_somebody_goes_on_with_is_kept_however_old_it_is(
    machine: Callable[[str], InBucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    work = machine("one")
    for module in (in_bucket, needs):
        monkeypatch.setattr(module, "SAFE_SECONDS", 0.0)
    monkeypatch.setattr(in_bucket, "BLOB_SECONDS", 0.0)
    work.settle()
    attempt, blob = left_by_the_dead(work)
    with work.hold("fisher-00000000000000aa", wait=False):  # its claim bears its own stage's name
        for _ in range(3):
            found = collected(work, 0.0)
            assert {item.path: item.needed_by for item in found.kept}[attempt][-1] == "a run goes on"
    assert work.store.size(blob) == 7
    walk: list[BucketContents] = []

    def comes_back(work: InBucket, later: float = 0.0) -> BucketContents:
        """Between the two looks of one run somebody goes on with it."""
        seen = look(work, later)
        walk.append(seen)
        if len(walk) == 2:
            seen.alive["fisher-00000000000000aa"] = 1.0
        return seen

    monkeypatch.setattr(bucket_contents, "ALIVE_SECONDS", -1.0)
    monkeypatch.setattr(in_bucket, "look", comes_back)
    assert attempt not in paths(collected(work, 1.0))
    assert work.store.size(f"{attempt}/result.json")


@pytest.mark.slow
def test_retention_ends_what_the_last_run_and_a_champion_need(machine: Callable[[str], InBucket]) -> None:
    work = machine("one")

    class Read(Stage):
        stage: ClassVar[str] = "ingest"

    class Split(Stage):
        stage: ClassVar[str] = "preprocess"

    def rows(folder: Path) -> Made:
        (folder / "quarantine.jsonl").write_text("{}")
        return Made()

    made = [work.once(kind(name="x"), Made, rows) for kind in (Read, Split)]
    overwrite(
        work, "runs/tiny/run.json", json.dumps({"steps": [{"fingerprint": one.fingerprint} for one in made]}).encode()
    )
    overwrite(work, "runs/tiny/run.log", b"a row")
    overwrite(work, "runs/tiny/report.html", b"a row")
    add(work, "outcomes/aa.parquet", b"a row")
    (ingest, split) = (f"stages/{one.uri.partition('/stages/')[2]}" for one in made)

    def over(*words: str, days: float = 40.0) -> WorkCollected:
        policy = WorkPolicy(keep_days=99.0, retention=Retention.parse(words))
        return BucketCollector(work, policy, later=days * DAY).collect()

    gone = {
        "snapshots=30": {ingest},
        "prepared=30": {split},
        "quarantine=30": {ingest},
        "outcomes=30": {"outcomes/aa.parquet"},
    }
    gone["logs=30"] = {"runs/tiny/run.log", "runs/tiny/report.html"}
    assert paths(over()) - gone["outcomes=30"] == set()
    for word, of_word in gone.items():
        assert paths(over(word)) - gone["outcomes=30"] == of_word - gone["outcomes=30"]
        assert paths(over(word, days=20.0)) - gone["outcomes=30"] == set()
    assert over("snapshots=30").missed[ingest][0] == "the last run of tiny"
    with work.hold("runs/tiny", wait=False):
        assert paths(over("snapshots=0", "logs=0", "outcomes=0", days=0.0)) == set()
    done = BucketCollector(work, WorkPolicy(retention=Retention.parse(["quarantine=30"])), later=40 * DAY)
    done.collect(delete=True)
    assert not work.has(Read(name="x"))
    assert work.once(Read(name="x"), Made, rows).uri == made[0].uri
