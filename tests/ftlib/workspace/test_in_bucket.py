"""A work place in a bucket: what a folder promises, between machines that share nothing but the bucket."""

from __future__ import annotations

import contextvars
import copy
import json
import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ftlib.errors import BusyError, Interrupted, StorageError
from ftlib.progress import emit
from ftlib.registry.outcome import Refusal
from ftlib.storage import claims
from ftlib.storage.node_cache import local_path
from ftlib.storage.trees import create_tree, tree_of
from ftlib.workspace import Workspace
from tests.ftlib.workspace.kit import FILES, Made, Stage, build, ended, files_in, forked, machine

RECORD = f"work/stages/stage/{Stage().fingerprint}/record.json"


def keys(bucket: Any, word: str = "") -> list[str]:
    return [stored.key for stored in bucket.objects.all() if word in stored.key]


class TestOneAfterTheOther:
    @pytest.mark.parametrize("records", [True, False])
    def test_who_lost_its_claim_takes_the_others_record_whatever_its_own_work_ended_with(
        self, place: str, s3_endpoint: str, tmp_path: Path, records: bool
    ) -> None:
        work = machine(place, tmp_path / "a", s3_endpoint)
        heard = list[str]()

        def overtaken(folder: Path) -> Made:
            if heard:
                return build(folder)
            store, name = work.store, f"stage-{Stage().fingerprint}"
            assert store is not None
            if records:
                (other := tmp_path / "other").mkdir()
                made = build(other).model_copy(update={"said": "other", "fingerprint": Stage().fingerprint})
                create_tree(store, f"stages/stage/{Stage().fingerprint}", other, tree_of(other, made.model_dump()))
                raise StorageError("what was promised is gone")  # the first to end cleared it
            while not claims.create_beat(store, name, claims.newest(store, name)[0] + 1, "other"):
                pass

            def sign() -> None:
                while not heard:
                    try:
                        emit("train", 1, 2, "steps")
                    except claims.ClaimLostError as lost:
                        heard.append(str(lost))

            thread = threading.Thread(target=contextvars.copy_context().run, args=(sign,))
            thread.start()
            thread.join()
            raise StorageError("the workers ended")

        assert work.once(Stage(), Made, overtaken).said == ("other" if records else "done")
        assert bool(heard) is not records

    def test_what_one_made_another_finds_and_reads_part_by_part(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        work = machine(place, tmp_path / "a", s3_endpoint)
        assert work.find(Stage(), Made) is None
        made = work.once(Stage(), Made, build)
        assert made.uri == work.uri(Stage()) == f"{place}/stages/stage/{Stage().fingerprint}"
        assert files_in(made.path) == FILES
        assert made.path == work.folder(Stage())
        work = machine(place, tmp_path / "b", s3_endpoint)
        found = work.once(Stage(), Made, lambda _: pytest.fail("it is there"))
        assert found == made
        assert files_in(found.local(Path("model"))) == {"weights": FILES["model/weights"], "same": FILES["model/same"]}
        assert not (work.folder(Stage()) / "notes").exists()
        assert not local_path(f"{found.uri}/adapter").exists()
        assert files_in(found.path) == FILES
        assert (found.path / "hollow" / "inner").is_dir()
        assert len(keys(bucket, "/blobs/")) == 3  # the same bytes are stored once
        assert len(keys(bucket, RECORD)) == 1
        assert keys(bucket, "/claims/") == keys(bucket, "/leases/") == keys(bucket, "/probes/") == []

    @pytest.mark.slow
    def test_shared_replaced_and_carried_files(self, place: str, s3_endpoint: str, tmp_path: Path) -> None:
        (model := tmp_path / "model").mkdir()
        (model / "config.json").write_text("{}")
        work = machine(place, tmp_path / "a", s3_endpoint)
        for relative, text in (("outcomes/ab.parquet", "table"), ("runs/r/run.json", "first")):
            (work.root / relative).parent.mkdir(parents=True, exist_ok=True)
            (work.root / relative).write_text(text)
        work.share("outcomes/ab.parquet")
        work.replace("runs/r/run.json")
        carried = work.carry(model)
        assert carried == work.carry(model) == work.carry(local_path(carried))
        work = machine(place, tmp_path / "b", s3_endpoint)
        assert work.shared("outcomes/ab.parquet").read_text() == "table"
        assert not work.shared("outcomes/other").exists()
        assert work.newest("runs/r/run.json").read_text() == "first"
        assert work.names("outcomes") == ["ab.parquet"]
        assert files_in(local_path(carried)) == {"config.json": b"{}"}
        work.root.joinpath("runs/r/run.json").write_text("second")
        work.replace("runs/r/run.json")
        assert machine(place, tmp_path / "a", s3_endpoint).newest("runs/r/run.json").read_text() == "second"

    @pytest.mark.slow
    def test_a_failed_attempt_leaves_nothing_and_a_record_that_is_forgotten_is_made_again(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        work = machine(place, tmp_path / "a", s3_endpoint)
        with pytest.raises(ZeroDivisionError):
            work.once(Stage(), Made, lambda _: Made(said=str(1 / 0)))
        assert keys(bucket) == ["work/place.json"]
        first = work.once(Stage(), Made, build)
        making = work.making(Stage())
        work.forget(Stage())
        assert not work.has(Stage())
        other = work.once(Stage(), Made, lambda folder: Made(said=(folder / "other").write_text("x") and "again"))
        assert (first.said, other.said) == ("done", "again")
        assert work.making(Stage()) not in (making, None)
        assert files_in(other.path) == {"other": b"x"}

    def test_a_place_that_holds_a_registry_is_refused(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        bucket.put_object(Key="work/registry.json", Body=b"{}")
        with pytest.raises(StorageError, match="holds a registry, whose collector deletes what no version needs"):
            machine(place, tmp_path / "a", s3_endpoint).once(Stage(), Made, build)
        assert keys(bucket) == ["work/registry.json"]

    @pytest.mark.slow
    def test_a_killed_attempt_of_this_node_goes_on_where_the_stage_can(
        self, place: str, s3_endpoint: str, tmp_path: Path
    ) -> None:
        work = machine(place, tmp_path / "a", s3_endpoint)

        def half(folder: Path) -> Made:
            (folder / "half").write_text("half")
            raise KeyboardInterrupt

        for resumable in (True, False):
            with pytest.raises(KeyboardInterrupt):
                work.once(Stage(name=str(resumable)), Made, half, resumable=True)
            made = work.once(
                Stage(name=str(resumable)), Made, lambda f: Made(said=str((f / "half").exists())), resumable=resumable
            )
            assert made.said == str(resumable)

    @pytest.mark.slow
    def test_another_kind_of_record_and_a_damaged_one_say_so(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        work = machine(place, tmp_path / "a", s3_endpoint)
        work.once(Stage(), Made, build)
        with pytest.raises(StorageError, match=r"record.json is not a Refusal record .* delete it to make it again"):
            work.find(Stage(), Refusal)
        bucket.Object(RECORD).put(Body=bucket.Object(RECORD).get()["Body"].read().replace(b"done", b"dome"))
        with pytest.raises(StorageError, match="has other bytes than were written"):
            work.once(Stage(), Made, build)

    @pytest.mark.slow
    def test_it_travels_as_where_it_is(self, place: str) -> None:
        work = Workspace(place)
        again = copy.copy(work)  # as pickle does
        assert (type(again), str(again), again.root) == (type(work), place, work.root)


@pytest.mark.slow
def test_keys_that_consoles_make_and_files_of_no_bytes_mean_nothing(
    place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
) -> None:
    for key in ("work/", "work/stages/", f"work/stages/stage/{Stage().fingerprint}/", "work/claims/", "work/blobs/"):
        bucket.Object(key).put(Body=b"")
    work = machine(place, tmp_path / "a", s3_endpoint)
    assert work.find(Stage(), Made) is None
    assert not work.has(Stage())
    assert files_in(work.once(Stage(), Made, build).path) == FILES
    assert work.names("claims") == []


class TestTwoAtOnce:
    """Two machines, as two processes with caches of their own, ask for the same output."""

    @staticmethod
    def ask(place: str, cache: Path, endpoint: str, log: Path, seconds: float, blind: bool = False) -> None:
        if blind:  # neither hears of the other
            claims.newest = lambda *_: (0, None)  # type: ignore[assignment]
            claims.create_beat = lambda *_, **__: True  # type: ignore[assignment]

        def slow(folder: Path) -> Made:
            with log.open("a") as stream:
                stream.write(f"{cache.name} builds\n")
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0.02)
                emit("stage", 1, 2, "steps")
            (folder / "whose").write_text(cache.name)
            return build(folder)

        work = machine(place, cache, endpoint)
        made = work.once(Stage(), Made, slow)
        with log.open("a") as stream:
            stream.write(json.dumps({"whose": (made.path / "whose").read_text(), "by": cache.name}) + "\n")

    def both(self, place: str, endpoint: str, tmp_path: Path, **how: Any) -> tuple[list[str], set[str]]:
        log = tmp_path / "log"
        children = [
            forked(lambda name=name: self.ask(place, tmp_path / name, endpoint, log, **how)) for name in ("a", "b")
        ]
        assert [ended(child) for child in children] == [0, 0]
        lines = log.read_text().splitlines()
        return [line for line in lines if "builds" in line], {
            json.loads(line)["whose"] for line in lines if "{" in line
        }

    @pytest.mark.slow
    def test_one_makes_it_and_the_other_waits(self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path) -> None:
        builds, whose = self.both(place, s3_endpoint, tmp_path, seconds=0.5)
        assert len(builds) == len(whose) == 1
        assert len(keys(bucket, RECORD)) == 1
        assert keys(bucket, "/claims/") == []

    @pytest.mark.slow
    def test_where_both_make_it_one_record_counts_and_both_go_on_with_it(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        builds, whose = self.both(place, s3_endpoint, tmp_path, seconds=0.3, blind=True)
        assert len(builds) == 2
        assert len(whose) == 1
        assert len(keys(bucket, RECORD)) == 1

    @pytest.mark.parametrize("is_lost", [True, False])
    def test_an_attempt_that_fails_takes_the_record_that_another_made_meanwhile(
        self, place: str, s3_endpoint: str, tmp_path: Path, is_lost: bool
    ) -> None:
        """A training hears of a lost claim as a request to stop, and of files that the first deleted as damage."""
        work, job = machine(place, tmp_path / "a", s3_endpoint), Stage()
        name, key = f"stage-{job.fingerprint}", f"stages/stage/{job.fingerprint}"
        (tmp_path / "theirs").mkdir()
        store = work.store
        assert store is not None

        def attempt(_: Path) -> Made:
            create_tree(store, key, tmp_path / "theirs", tree_of(tmp_path / "theirs", {"said": "theirs", "uri": ""}))
            if not is_lost:
                raise StorageError("its files are gone")
            while not claims.create_beat(store, name, max(claims.numbers(store, name)) + 1, "b"):
                pass
            time.sleep(0.3)  # until its next beat
            raise Interrupted("stopped on request")

        assert work.once(job, Made, attempt).said == "theirs"

    @pytest.mark.slow
    def test_a_dead_holders_claim_is_taken_over_and_one_that_comes_back_loses_harmlessly(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        child = forked(lambda: self.ask(place, tmp_path / "a", s3_endpoint, log, seconds=60))
        while not log.exists():
            time.sleep(0.02)
        os.kill(child, signal.SIGSTOP)  # its link is cut, or its machine sleeps
        self.ask(place, tmp_path / "b", s3_endpoint, log, seconds=0)
        os.kill(child, signal.SIGCONT)
        assert ended(child) == 0  # within its minute: it stopped, and took the record that is there
        lines = log.read_text().splitlines()
        assert lines[:2] == ["a builds", "b builds"]
        assert [json.loads(line) for line in lines[2:]] == [{"whose": "b", "by": "b"}, {"whose": "b", "by": "a"}]
        assert keys(bucket, "/claims/") == []

    @pytest.mark.slow
    @pytest.mark.parametrize("hours", [-1, 1])
    def test_clocks_an_hour_apart_change_nothing(
        self, place: str, bucket: Any, s3_endpoint: str, tmp_path: Path, hours: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log, now, shift = tmp_path / "log", time.time, timedelta(hours=hours).total_seconds()
        child = forked(lambda: self.ask(place, tmp_path / "a", s3_endpoint, log, seconds=1.5))
        monkeypatch.setattr(time, "time", lambda: now() + shift)
        monkeypatch.setattr(time, "gmtime", lambda *_: time.localtime(now() + shift))
        while not log.exists():
            time.sleep(0.02)
        self.ask(place, tmp_path / "b", s3_endpoint, log, seconds=0)
        assert ended(child) == 0
        assert log.read_text().count("builds") == 1

    @pytest.mark.slow
    def test_a_name_is_held_by_one_machine(self, place: str, s3_endpoint: str, tmp_path: Path) -> None:
        def busy() -> None:
            work = machine(place, tmp_path / "b", s3_endpoint)
            with pytest.raises(BusyError, match="runs-r is already going on"), work.hold("runs/r", wait=False):
                pass

        work = machine(place, tmp_path / "a", s3_endpoint)
        with work.hold("runs/r", wait=False):
            assert ended(forked(busy)) == 0
        with work.hold("runs/r", wait=False):
            pass
