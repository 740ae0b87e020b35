"""The harness of random kills: what it must notice, and the page that it makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import click
import pytest
from click.testing import CliRunner

from benchmarks import reliability_jobs
from benchmarks.reliability import main
from benchmarks.reliability_arena import MARK, Arena, Process
from benchmarks.reliability_facts import INVARIANTS, differing, facts
from benchmarks.reliability_jobs import JOBS, NAME, Job, answering, possible, recipe
from benchmarks.reliability_page import BASELINE, PAGE, Kill, page, read, table
from ftlib.answer_log.record import LiveAnswer
from ftlib.registry import CHAMPION, ModelRegistry
from ftlib.storage import LocalStore
from tests.ftlib.registry.kit import damage, fine, staged


def kill(job: str = "train", how: str = "tree", broken: tuple[str, ...] = (), stay: float = 0.0) -> Kill:
    return Kill("2026-11-28T06:00:00Z", job, how, 0.5, 1.5, "train", -9, stay, 2.0, broken, 3.0)


def test_the_page_holds_the_table_of_what_is_recorded() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text, read(BASELINE)) == text


def test_the_table_counts_by_job_and_names_what_broke() -> None:
    kills = [kill(), kill(how="main", stay=2.5), kill("promote", "asked", broken=("history",)).kept("kept/here")]
    rows = [line.split(" | ")[1:] for line in table(kills).splitlines()[2:]]
    assert rows == [
        ["0", "0", "1", "0 of 1", "0.0 s |"],
        ["1", "1", "0", "2 of 2", "2.5 s |"],
        ["1", "1", "1", "2 of 3", "2.5 s |"],
    ]
    text = page(PAGE.read_text(encoding="utf-8"), kills)
    assert "BROKE history, see kept/here" in text


def test_a_record_comes_back_and_a_torn_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kills.jsonl"
    assert read(path) == []
    kills = [kill(), kill(broken=("weights",)).kept("there")]
    path.write_text("".join(json.dumps(one.record()) + "\n" for one in kills))
    assert read(path) == kills
    path.write_text(path.read_text() + '{"at": "2026')
    with pytest.raises(click.ClickException, match=r"kills\.jsonl:3 is no record"):
        read(path)


def test_enough_records_need_no_kill_and_an_unknown_job_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kills.jsonl"
    path.write_text(json.dumps(kill().record()) + "\n")
    done = CliRunner().invoke(main, ["--kills", "1", "--results", str(path)])
    assert (done.exit_code, "nothing to do" in done.output) == (0, True)
    refused = CliRunner().invoke(main, ["--only", "trian", "--results", str(path)])
    assert refused.exit_code == 2
    assert "no job trian; there are ingest" in refused.output


def test_a_job_waits_until_its_command_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(JOBS, "later", Job(("no-such-command",), lambda folder, run: None))
    assert "later" not in possible()
    assert {"ingest", "train", "publish", "promote", "rollback", "retrain", "run"} <= {*possible()}


def test_serve_is_killed_once_it_answers_and_not_while_its_pages_are_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    statuses = [404, 503, 200]

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        monkeypatch.setattr(reliability_jobs, "SERVED", server.server_port)
        Thread(target=server.serve_forever, daemon=True).start()
        assert [answering(tmp_path) for _ in range(3)] == [False, False, True]
        server.shutdown()
    assert not answering(tmp_path)  # nobody listens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder with one published version, which is champion."""
    recipe(tmp_path)
    store = LocalStore(tmp_path / "registry")
    publish_as(store, tmp_path, "1")
    ModelRegistry(store).promote(NAME, CHAMPION, 1, None, "t", "")
    return tmp_path


def publish_as(store: LocalStore, folder: Path, key: str) -> None:
    manifest, files = staged(
        folder / f"staging-{key}", {"model.safetensors": f"weights {key}", "config.json": "{}"}, NAME
    )
    ModelRegistry(store).publish(manifest, files, key, fine, folder)


def test_what_a_kill_could_break_is_seen(folder: Path) -> None:
    store = LocalStore(folder / "registry")
    before = facts(folder)
    assert differing(before, before) == []
    assert before["faults"] == before["dangling"] == before["answers"] == []
    publish_as(store, folder, "2")
    assert differing(facts(folder), before) == ["weights", "versions"]
    ModelRegistry(store).promote(NAME, CHAMPION, 2, 1, "t", "")
    assert "history" in differing(facts(folder), before)


def test_damage_garbage_and_torn_answers_are_seen(folder: Path) -> None:
    store = LocalStore(folder / "registry")
    before = facts(folder)
    answers = folder / "answers"
    answers.mkdir()
    answer = LiveAnswer(request="a", at="2026-11-28T06:00:00Z", name=NAME, version=1).model_dump_json()
    (answers / "1.jsonl").write_text(answer + "\n")
    assert differing(facts(folder), before) == []
    (answers / "2.jsonl").write_text(answer + "\n" + answer[:20])
    assert "answers" in differing(facts(folder), before)
    blob = _blobs(folder)[0]
    store.create(f"{blob[:-1]}{'0' if blob[-1] != '0' else '1'}", b"nobody's")
    assert "dangling" in differing(facts(folder), before)
    damage(store, blob)
    assert "faults" in differing(facts(folder), before)
    assert {*differing({}, before)} <= {*INVARIANTS}


def _blobs(folder: Path) -> list[str]:
    root = folder / "registry"
    return sorted(str(path.relative_to(root)) for path in (root / "blobs").rglob("*") if path.is_file())


def test_a_process_that_stays_is_seen_and_ended(tmp_path: Path) -> None:
    sleeps = "[sys.executable, '-c', 'import time; time.sleep(60)']"
    code = f"import subprocess, sys; subprocess.Popen({sleeps}, start_new_session=True)"
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, MARK: "this"}, start_new_session=True)
    process = Process(child.pid, "this")
    assert process.wait() == 0
    left, seconds = process.left(0.2)
    assert [("time.sleep" in line) for line in left] == [True]
    assert seconds >= 0.2
    until = time.monotonic() + 10
    while process.others() and time.monotonic() < until:
        time.sleep(0.01)
    assert process.others() == {}


@pytest.mark.slow
def test_a_killed_job_is_what_it_was_once_it_ran_again(tmp_path: Path) -> None:
    """With a command that takes no time: the arena's own part."""
    arena = Arena(tmp_path)

    def prepare(folder: Path, run: Any) -> None:
        recipe(folder)
        (folder / "work" / "stages").mkdir(parents=True)

    job = Job(("schema",), prepare)
    undisturbed = arena.prepare("schema", job)
    assert undisturbed.facts["collectable"] == "yes"
    (tmp_path / "schema" / "work" / "later").touch()
    (tmp_path / "schema" / "answers").mkdir()
    arena.reset("schema")
    assert [path.name for path in (tmp_path / "schema" / "work").iterdir()] == ["stages"]
    assert not (tmp_path / "schema" / "answers").exists()
    process = arena.start("schema", "killed")
    process.kill("main")
    assert process.wait() == -9
    assert arena.differing("schema", undisturbed) == []
