"""What a script and a person see of any command, in this process and in one of its own."""

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flows.command_line.console import ReglageGroup, emit, json_option
from flows.command_line.registry_options import table
from ftlib.errors import DataError, StorageError


@click.group(cls=ReglageGroup)
def cli() -> None:
    pass


@cli.command()
@click.option("--mood", default="fine")
@json_option
def act(mood: str, as_json: bool) -> None:
    print("chatter")
    if mood == "disk":
        raise StorageError("/x: No space left on device; free space")
    if mood == "two lines":
        raise DataError("a: bad\nb: worse")
    if mood == "ctrl-c":
        raise KeyboardInterrupt
    if mood == "bug":
        raise ZeroDivisionError("oops")
    emit(lambda: print("all is fine"), {"mood": "é"}, as_json)
    if mood == "late":
        raise StorageError("late")


def run(*words: str):
    return CliRunner().invoke(cli, ["act", *words])


def test_a_person_reads_text_and_a_script_one_object():
    assert run().stdout == "chatter\nall is fine\n"
    result = run("--json")
    assert json.loads(result.stdout) == {"mood": "é"}
    assert result.stdout.count("\n") == 1
    assert "chatter" in result.stderr
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("mood", "code", "lines"),
    [
        ("disk", 6, ["reglage: /x: No space left on device; free space"]),
        ("two lines", 3, ["reglage: a: bad", "reglage: b: worse"]),
        ("ctrl-c", 130, ["", "reglage: stopped; run the same command again to go on from where it was"]),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(mood: str, code: int, lines: list[str]):
    result = run("--mood", mood)
    assert result.exit_code == code
    assert result.stderr.splitlines() == lines


@pytest.mark.parametrize(
    ("mood", "code", "kind"),
    [
        ("disk", 6, "StorageError"),
        ("ctrl-c", 130, "Interrupted"),
        ("bug", 1, "InternalError"),
        ("late", 6, "StorageError"),
    ],
)
def test_a_script_gets_the_error_as_the_only_object(mood: str, code: int, kind: str):
    result = run("--json", "--mood", mood)
    assert result.exit_code == code
    error = json.loads(result.stdout)["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)


def test_a_usage_error_says_so_both_ways():
    result = run("--moood", "x")
    assert result.exit_code == 2
    assert result.stderr.startswith("reglage: ")
    assert "'--moood'. Did you mean '--mood'?" in result.stderr
    assert json.loads(run("--json", "--moood").stdout)["error"]["kind"] == "UsageError"


def test_the_bare_command_is_its_help():
    result = CliRunner().invoke(cli, [])
    assert result.exit_code == 2
    assert result.stderr.startswith("Usage: ")


def test_a_bug_keeps_its_traceback_for_people():
    assert isinstance(run("--mood", "bug").exception, ZeroDivisionError)


CHATTY = """
import os, subprocess, sys
import click
from flows.command_line.console import ReglageGroup, emit, json_option
from flows.command_line.registry_options import table

@click.group(cls=ReglageGroup)
def cli(): pass

@cli.command()
@json_option
def act(as_json):
    print("from python", flush=True)
    os.write(1, b"from native code\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    emit("fine", {"ok": True}, as_json)

cli()
"""


def test_not_even_native_code_and_children_reach_stdout(tmp_path: Path):
    script = tmp_path / "chatty.py"
    script.write_text(CHATTY)
    words = [sys.executable, str(script), "act"]
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"ok": True}
    assert sorted(done.stderr.splitlines()) == ["from a child", "from native code", "from python"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "fine"


def test_a_table_in_a_pipe_is_not_folded(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    reason = " ".join(["because"] * 30)
    emit(table(["why", "sha256"], [[reason, "f" * 64]]), {}, as_json=False)
    assert f"{reason}   {'f' * 64}" in capfd.readouterr().out
    monkeypatch.setenv("COLUMNS", "60")
    emit(table(["why", "sha256"], [[reason, "f" * 64]]), {}, as_json=False)
    assert max(map(len, capfd.readouterr().out.splitlines())) <= 60
