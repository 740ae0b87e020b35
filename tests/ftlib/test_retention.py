"""What goes because its time is over, whoever needs it; and that who needs it is said."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import ClassVar

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from ftlib.artifacts import Artifact
from ftlib.errors import RecipeError
from ftlib.fingerprint import Job
from ftlib.work_collection import DAY, Retention, WorkCollected, WorkCollector, WorkPolicy
from ftlib.workspace import RECORD, Workspace, enter, leave


class Rows(Artifact):
    content: str

    def digest(self) -> str:
        return self.content


class Read(Job):
    stage: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    name: str


class Split(Read):
    stage: ClassVar[str] = "preprocess"


class Score(Read):
    stage: ClassVar[str] = "train"


DAYS = {"ingest": 40, "preprocess": 20, "train": 40}


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """A snapshot of 40 days ago, rows of 20 days ago and weights, used by a recipe's last run; and files beside."""
    work = Workspace(tmp_path / "work")

    def build(folder: Path) -> Rows:
        (folder / "quarantine.jsonl").write_text("{}")
        return Rows(content="aa")

    made = [work.once(kind(name="x"), Rows, build) for kind in (Read, Split, Score)]
    (run := work.root / "runs" / "tickets").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"steps": [{"fingerprint": one.fingerprint} for one in made]}))
    (work.root / "outcomes").mkdir()
    for path in (run / "run.log", run / "report.html", work.root / "outcomes" / "aa.parquet"):
        path.write_text("a row")
        _age(path, 40)
    for one in made:
        days = DAYS[one.path.parent.name]
        for path in (one.path / RECORD, one.path / "quarantine.jsonl", one.path.with_suffix(".lock")):
            _age(path, days)
    leave(work.root)
    return work


def _age(path: Path, days: float) -> None:
    os.utime(path, (time.time() - days * DAY,) * 2)


def collected(work: Workspace, *words: str, delete: bool = True, **contents: str) -> WorkCollected:
    policy = WorkPolicy(retention=Retention.parse(words))
    return WorkCollector(work.root, policy, {digest: who for who, digest in contents.items()}).collect(delete=delete)


def left(work: Workspace) -> set[str]:
    stages = {path.parent.name for path in (work.root / "stages").glob("*/*") if path.is_dir()}
    return stages | {path.name for path in work.root.rglob("*.*") if path.suffix in (".log", ".html", ".parquet")}


def test_without_a_retention_all_that_the_last_run_used_stays(work: Workspace):
    assert collected(work).missed == {}
    assert left(work) >= {"ingest", "preprocess", "train", "run.log", "report.html"}


def test_what_is_older_goes_though_a_champion_needs_it_and_who_does_is_named(work: Workspace):
    done = collected(work, "snapshots=30", "prepared=30", champion="aa")
    assert left(work) >= {"preprocess", "train", "run.log"}
    assert "ingest" not in left(work)
    (path, who), *others = done.missed.items()
    assert path.startswith("stages/ingest/")
    assert who == ("the last run of tickets", "champion")
    assert others == []
    again = work.once(Read(name="x"), Rows, lambda folder: Rows(content="aa"))  # made again, if somebody asks
    assert again.path.is_dir()


@pytest.mark.parametrize(
    ("word", "gone"),
    [("prepared=10", "preprocess"), ("logs=30", "run.log"), ("logs=30", "report.html"), ("outcomes=30", "aa.parquet")],
)
def test_each_kind_of_data_has_days_of_its_own(work: Workspace, word: str, gone: str):
    before = left(work)
    shown = collected(work, word, delete=False)
    assert left(work) == before
    assert any(Path(item.path).name == gone or item.stage == gone for item in shown.garbage)
    collected(work, word)
    assert gone not in left(work)
    assert left(work) >= {"ingest", "train"}


def test_a_quarantine_goes_alone_and_its_output_stays_done(work: Workspace):
    collected(work, "quarantine=30")
    assert not [*work.root.glob("stages/ingest/*/quarantine.jsonl")]
    assert work.find(Read(name="x"), Rows) is not None


def test_what_a_process_uses_or_used_within_the_hour_waits_for_the_next_time(work: Workspace):
    enter(work.root)
    work.touch(Read(name="x"))
    assert collected(work, "snapshots=30", "logs=30").busy
    assert left(work) >= {"ingest", "run.log"}
    leave(work.root)
    collected(work, "snapshots=30")
    assert "ingest" in left(work)  # asked for a moment ago


def test_a_retention_that_is_none_is_one_line():
    for words, said in {
        ("weights=3",): "got 'weights=3', allowed are KIND=DAYS",
        ("logs=3", "logs=4"): "got 'logs=4' is given twice",
        ("logs=soon",): "logs=soon, allowed are days from 0 on",
        ("logs=-1",): "logs=-1, allowed are days from 0 on",
        ("logs",): "logs=, allowed",
    }.items():
        with pytest.raises(RecipeError, match=said):
            Retention.parse(words)


def test_the_command_names_who_misses_what(work: Workspace):
    asked = ["work", "gc", "--retain", "snapshots=30", "--yes", "--work", str(work.root)]
    answer = CliRunner().invoke(main, asked)
    assert answer.exit_code == 0, answer.output
    assert "its retention is over, and it is needed by the last run of tickets" in answer.output
