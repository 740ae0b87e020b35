"""What a work folder's collector deletes and never deletes, whoever else is at work and wherever it is killed."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

import ftlib.work_collection.in_folder as work_collection
from ftlib.artifacts import Artifact
from ftlib.errors import StorageError
from ftlib.fingerprint import Job
from ftlib.work_collection import DAY, WorkCollected, WorkCollector, WorkPolicy, collect_cache
from ftlib.workspace import RECORD, Workspace, leave, users_in
from tests.ftlib.registry.kit import child, exit_code

ALL = WorkPolicy(keep_days=0.0)


class Made(Artifact):
    content: str
    of: tuple[str, ...] = ()
    """Folders of outputs that this one was made from."""

    def digest(self) -> str:
        return self.content


class Make(Job):
    stage: ClassVar[str] = "make"
    version: ClassVar[int] = 1

    name: str
    of: tuple[str, ...] = ()


def made(work: Workspace, name: str, *of: Made) -> Made:
    """Have an output that names others; its data is its name."""

    def build(folder: Path) -> Made:
        (folder / "rows").write_text(f"the rows of {name}")
        return Made(content=f"content of {name}", of=tuple(one.uri for one in of))

    return work.once(Make(name=name, of=tuple(one.fingerprint for one in of)), Made, build)


def later(root: Path, **more: object) -> WorkCollector:
    """A collector that looks in two hours, when this process has left."""
    leave(root)
    return WorkCollector(root, **{"policy": ALL, "clock": lambda: time.time() + 7200, **more})


def names(collected: WorkCollected) -> set[str]:
    return {item.path.split("/")[-1] for item in collected.garbage if item.path.startswith("stages")}


def run_record(work: Workspace, recipe: str, *used: Made, file: str = "run.json") -> None:
    folder = work.root / "runs" / recipe
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps({"steps": [{"fingerprint": one.fingerprint} for one in used]}))


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


def test_what_is_needed_stays_and_all_else_goes(work: Workspace) -> None:
    below, between, top, old, older = (made(work, name) for name in ("below", "b", "t", "old", "older"))
    between = made(work, "between", below)
    top = made(work, "top", between)
    champion, elsewhere = made(work, "champion"), made(work, "elsewhere")
    run_record(work, "tickets", top)
    run_record(work, "tickets", old, file="history/20260102T000000.json")
    run_record(work, "tickets", older, file="history/20260101T000000.json")
    found = later(work.root, contents={"content of champion": "champion of m, version 3"}).collect()
    stay = {one.fingerprint for one in (below, between, top, old, champion)}
    assert {item.path.split("/")[-1] for item in found.kept if item.path.startswith("stages")} == stay
    assert older.fingerprint in names(found)
    why = {item.path.split("/")[-1]: item.needed_by for item in found.kept}
    assert why[champion.fingerprint] == ("champion of m, version 3",)
    assert why[top.fingerprint] == ("the last run of tickets",)
    assert why[below.fingerprint] == (f"make {between.fingerprint}, which is kept",)
    more = later(work.root, policy=WorkPolicy(keep_days=0, keep_runs=2)).collect()
    assert older.fingerprint not in names(more)

    # A dry run wrote nothing; the same with `delete` leaves what it said.
    assert Path(elsewhere.uri).is_dir()
    done = later(work.root, contents={"content of champion": "c"}).collect(delete=True)
    assert names(done) == names(found)
    left = {path.name for path in (work.root / "stages" / "make").iterdir()}
    assert left == {name for stays in stay for name in (stays, f"{stays}.lock")}
    assert later(work.root, contents={"content of champion": "c"}).collect().garbage == ()


def test_what_was_used_within_the_days_or_the_hour_stays(work: Workspace) -> None:
    one = made(work, "one")
    leave(work.root)
    now = time.time()
    for age, policy, goes in (
        (0.9, WorkPolicy(keep_days=1), False),
        (1.1, WorkPolicy(keep_days=1), True),
        (0.03, ALL, False),
        (0.05, ALL, True),
    ):
        found = WorkCollector(work.root, policy, clock=lambda age=age: now + age * DAY).collect()
        assert (one.fingerprint in names(found)) is goes, age
    made(work, "one")  # found, not made: it counts as used now
    leave(work.root)
    assert made(work, "one").uri == one.uri


def test_a_process_that_holds_the_folder_keeps_what_it_used_and_no_more(work: Workspace) -> None:
    before = made(work, "before")
    leave(work.root)
    past = time.time() - 3 * DAY
    os.utime(Path(before.uri).with_suffix(".lock"), (past, past))
    used = made(work, "used")  # this process holds the folder from here on
    collector = WorkCollector(work.root, ALL, clock=lambda: time.time() + 30 * DAY)
    assert names(collector.collect()) == {before.fingerprint}
    leave(work.root)
    assert names(collector.collect()) == {before.fingerprint, used.fingerprint}
    assert not [*users_in(work.root).glob("*.lock")]


def test_what_a_retraining_used_that_waits_for_an_answer_stays_for_a_week(work: Workspace) -> None:
    one = made(work, "one")
    leave(work.root)
    listing = work.root / "listings" / "run.json"
    listing.parent.mkdir()
    listing.write_text("{}")
    for days, goes in ((6.9, False), (8.1, True)):
        found = WorkCollector(work.root, ALL, clock=lambda days=days: time.time() + days * DAY).collect()
        assert (one.fingerprint in names(found)) is goes
        assert ("listings/run.json" in {item.path for item in found.garbage}) is goes


def test_half_made_outputs_and_what_a_killed_collector_left(work: Workspace) -> None:
    with pytest.raises(RuntimeError):
        work.once(Make(name="x"), Made, lambda folder: (_ for _ in ()).throw(RuntimeError((folder / "a").touch())))
    without_record = made(work, "y")
    (Path(without_record.uri) / RECORD).unlink()
    later(work.root).collect(delete=True)
    assert not [*(work.root / "stages" / "make").iterdir()]


def test_tables_that_no_kept_record_names_go_while_nobody_holds_the_folder(work: Workspace) -> None:
    def build(folder: Path) -> Made:
        del folder
        return Made(content="c", of=("outcomes/ab/named.parquet",))

    kept = work.once(Make(name="report"), Made, build)
    run_record(work, "tickets", kept)
    for name in ("outcomes/ab/named.parquet", "outcomes/ab/alone.parquet", "champions/0011/config.json"):
        (work.root / name).parent.mkdir(parents=True, exist_ok=True)
        (work.root / name).write_text("x")
    held = WorkCollector(work.root, ALL, clock=lambda: time.time() + 7200).collect(delete=True)
    assert {*held.busy} == {"outcomes/ab/alone.parquet", "champions/0011"}
    assert (work.root / "outcomes/ab/alone.parquet").exists()
    done = later(work.root, pulled={"0011" * 16: "champion of m"}).collect(delete=True)
    assert [item.path for item in done.garbage] == ["outcomes/ab/alone.parquet"]
    assert (work.root / "outcomes/ab/named.parquet").exists()
    later(work.root).collect(delete=True)
    assert not (work.root / "champions/0011").exists()


def broken(work: Workspace) -> list[str]:
    """Records that name an output which is not there: a run would find them done, and fail."""
    folders = [path for path in (work.root / "stages" / "make").iterdir() if (path / RECORD).is_file()]
    names = [(folder.name, of) for folder in folders for of in json.loads((folder / RECORD).read_text())["of"]]
    return [f"{name} names {of}" for name, of in names if not (Path(of) / RECORD).is_file()]


def graph(work: Workspace, seed: int) -> list[Made]:
    """Outputs of which each names some that were made before."""
    rng, outputs = random.Random(seed), list[Made]()
    for i in range(12):
        outputs.append(made(work, f"{seed}-{i}", *rng.sample(outputs, min(len(outputs), rng.choice([0, 1, 2, 3])))))
    return outputs


@pytest.mark.parametrize("seed", range(4))
def test_whatever_the_records_name_no_kept_one_loses_anything(work: Workspace, seed: int) -> None:
    """Against a walk over the names, written another way."""
    outputs = graph(work, seed)
    by_uri = {one.uri: one for one in outputs}
    roots = random.Random(seed).sample(outputs, 2)
    run_record(work, "r", *roots)
    needed: set[str] = set()

    def need(one: Made) -> None:
        needed.add(one.fingerprint)
        for of in one.of:
            need(by_uri[of])

    for root in roots:
        need(root)
    done = later(work.root).collect(delete=True)
    assert names(done) == {one.fingerprint for one in outputs} - needed
    assert broken(work) == []


def test_killed_at_any_step_no_record_names_what_is_gone_and_the_next_call_ends_it(work: Workspace) -> None:
    outputs = graph(work, 7)
    leave(work.root)
    shutil.copytree(work.root, spare := work.root.with_name("spare"), copy_function=shutil.copy2)

    def dying(point: int) -> None:
        steps = iter(range(1000))

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def step(*words: object, **options: object) -> object:
                if next(steps) == point:
                    os.kill(os.getpid(), 9)
                return real(*words, **options)

            return step

        os.unlink, os.rmdir, os.rename = (counted(each) for each in (os.unlink, os.rmdir, os.rename))
        work_collection.flush_folder = counted(work_collection.flush_folder)
        later(work.root).collect(delete=True)

    for point in range(0, 200, 17):
        shutil.rmtree(work.root)
        shutil.copytree(spare, work.root, copy_function=shutil.copy2)
        ended = exit_code(child(lambda point=point: dying(point)))
        assert broken(work) == []
        if ended == 0:
            break
        later(work.root).collect(delete=True)
        assert not [*(work.root / "stages" / "make").iterdir()]
    assert point > 17
    again = made(work, "7-0")
    assert (again.fingerprint, (Path(again.uri) / "rows").read_text()) == (outputs[0].fingerprint, "the rows of 7-0")


def at_work(root: Path, seed: int, rounds: int) -> None:
    """Be a run, again and again: what it found or made must be there until it has left."""
    for n in range(rounds):
        work, rng = Workspace(root), random.Random(f"{seed} {n}")
        below = made(work, f"below {rng.randrange(3)}")
        time.sleep(rng.random() / 200)
        top = made(work, "top", below)
        time.sleep(rng.random() / 200)
        for one in (below, top, *(Made(uri=uri, content="") for uri in top.of)):
            assert (Path(one.uri) / "rows").read_text().startswith("the rows of "), one
            assert (Path(one.uri) / RECORD).is_file()
        leave(root)


def test_runs_that_start_at_any_moment_lose_nothing_that_they_found(work: Workspace, monkeypatch) -> None:
    monkeypatch.setattr(work_collection, "CLOCKS_DIFFER", 0.0)  # here is one clock, and the locks alone must do
    made(work, "first")
    leave(work.root)
    runs = [child(lambda seed=seed: at_work(work.root, seed, 30)) for seed in range(3)]
    # By its clock everything is old at once: only the locks keep it from what is used.
    collector = WorkCollector(work.root, ALL, clock=lambda: time.time() + 30 * DAY)
    deleted, waiting = 0, {*runs}
    while waiting:
        deleted += len(collector.collect(delete=True).garbage)
        for pid in [*waiting]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                assert os.waitstatus_to_exitcode(status) == 0
                waiting.discard(pid)
    assert deleted > 10


def test_one_builds_at_a_time_though_the_lock_is_deleted_under_those_who_wait(work: Workspace, monkeypatch) -> None:
    monkeypatch.setattr(work_collection, "CLOCKS_DIFFER", 0.0)

    def build(folder: Path) -> Made:
        os.mkdir(work.root / "building")  # fails if another builds too
        time.sleep(0.01)
        os.rmdir(work.root / "building")
        return Made(content=folder.name)

    def run() -> None:
        for _ in range(25):
            work.once(Make(name="same"), Made, build)
            leave(work.root)

    made(work, "first")
    leave(work.root)
    runs = [child(run) for _ in range(3)]
    collector = WorkCollector(work.root, ALL, clock=lambda: time.time() + 30 * DAY)
    for _ in range(60):
        collector.collect(delete=True)
    assert [exit_code(pid) for pid in runs] == [0, 0, 0]


def test_a_folder_that_is_none_is_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is no work folder"):
        WorkCollector(tmp_path).collect()


def test_the_cache_keeps_what_was_used_of_late(tmp_path: Path) -> None:
    for name, days in (("versions/a", 20), ("versions/b", 1), ("folders/c", 20), ("prefect/d", 20)):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x" * 10)
        os.utime(tmp_path / name, (time.time() - days * DAY,) * 2)
    found = collect_cache(tmp_path, WorkPolicy())
    assert {item.path for item in found.garbage} == {"versions/a", "folders/c"}
    assert (tmp_path / "versions/a").is_dir()
    collect_cache(tmp_path, WorkPolicy(), delete=True)
    assert {path.name for path in tmp_path.glob("*/*")} == {"b", "d"}


def test_what_is_being_fetched_into_the_cache_is_kept_for_a_day_however_little_is(tmp_path: Path) -> None:
    for name, hours in (("versions/.a.partial", 2), ("versions/.b.partial", 30), ("versions/c", 2)):
        (tmp_path / name).mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - hours * 3600,) * 2)
    collect_cache(tmp_path, WorkPolicy(keep_days=0), delete=True)
    assert {path.name for path in tmp_path.glob("*/*")} == {".a.partial"}
