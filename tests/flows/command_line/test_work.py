"""`reglage work` and `registry copy` as people call them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import ftlib.work_collection.in_folder as work_collection
from flows.command_line.main import main
from ftlib.registry import ModelRegistry
from ftlib.storage import LocalStore
from ftlib.work_collection import WorkCollector
from ftlib.workspace import Workspace, leave
from tests.ftlib.registry.kit import FILES, publish
from tests.ftlib.test_work_collection import made, run_record


def call(*words: object) -> Result:
    return CliRunner().invoke(main, [*map(str, words)])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder with a run's output and one that nobody needs, in which two hours have gone by."""
    work = Workspace(tmp_path / "work")
    run_record(work, "tickets", made(work, "needed"))
    made(work, "spare")
    leave(work.root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")  # a table that is narrower breaks what is looked for
    collect = WorkCollector.collect

    def later(collector: WorkCollector, *, delete: bool = False):
        return collect(replace(collector, clock=lambda: time.time() + 7200), delete=delete)

    monkeypatch.setattr(work_collection.WorkCollector, "collect", later)
    return work.root


def test_a_dry_run_is_the_default_and_yes_acts(place: Path) -> None:
    listed = call("work", "list", "--all", "--work", place)
    assert listed.exit_code == 0, listed.output
    assert "the last run of tickets" in listed.stdout
    words = ("work", "gc", "--keep-days", 0, "--work", place)
    said = [call(*words), call(*words, "--dry-run")]
    assert ["would be deleted; --yes acts" in each.stdout for each in said] == [True, True]
    assert len([*(place / "stages" / "make").glob("*/rows")]) == 2
    acted = json.loads(call(*words, "--yes", "--json").stdout)
    (gone,) = acted["folders"][0]["garbage"]
    assert (acted["acted"], gone["path"].startswith("stages/make/")) == (True, True)
    assert [path.read_text() for path in (place / "stages" / "make").glob("*/rows")] == ["the rows of needed"]
    sums = call("work", "list", "--work", place).stdout
    assert "make" in sums
    assert "no bytes garbage" in sums


def test_the_cache_that_all_projects_share_is_left_alone_unless_it_is_named(place: Path, tmp_path: Path) -> None:
    old = tmp_path / "cache" / "reglage" / "versions" / "a"
    old.mkdir(parents=True)
    os.utime(old, (0, 0))
    words = ("work", "gc", "--keep-days", 0, "--yes", "--work", place)
    assert str(tmp_path / "cache") not in call(*words).stdout
    assert old.is_dir()
    assert "1 item" in call(*words, "--cache").stdout
    assert not old.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--keep-days", -1), "allowed are days from 0 on"), (("--keep-days", "nan"), "allowed are days from 0 on"),
     (("--keep-runs", 0), "--keep-runs"), (("--work", "/nowhere/at/all"), "is no work folder")],
)  # fmt: skip
def test_bad_words_are_one_line(place: Path, words: tuple[object, ...], said: str) -> None:
    result = call("work", "gc", "--yes", "--work", place, *words)
    assert result.exit_code in (2, 6)
    assert said in result.stderr
    assert len([*(place / "stages" / "make").glob("*/rows")]) == 2


def test_a_copy_says_its_number_here_and_there_and_moves_an_alias(tmp_path: Path) -> None:
    for key in ("a", "b"):
        publish(LocalStore(tmp_path / "staging"), tmp_path, key, {**FILES, "key": key})
    words = ("registry", "copy", "m@2", "--registry", tmp_path / "staging", "--to", tmp_path / "production")
    said = call(*words, "--alias", "champion", "--who", "ann")
    assert said.exit_code == 0, said.output
    first, second = said.stdout.splitlines()
    assert first == f"m@1 is now in {tmp_path / 'production'} (m@2 in {tmp_path / 'staging'})"
    assert second == "m@champion is now version 1, entry 1"
    entry = ModelRegistry(LocalStore(tmp_path / "production")).alias("m", "champion")
    assert entry is not None
    assert (entry.who, entry.why) == ("ann", f"copied from {tmp_path / 'staging'}: m@2")
    assert json.loads(call(*words, "--json").stdout)["created"] is False
    shown = call("registry", "show", "m", "--registry", tmp_path / "production").stdout
    assert f"copied from {tmp_path / 'staging'}: m@2, published there" in shown
    assert "name another registry" in call(*words[:6], tmp_path / "staging").stderr
