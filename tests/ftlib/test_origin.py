"""Which code this is, asked of a repository of its own, of what a build wrote, and of nothing."""

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from ftlib.origin import BUILT, COMMIT, UNKNOWN, Origin, origin, write_origin

LOCK = b"torch==2.13.0\n"
DIGEST = hashlib.sha256(LOCK).hexdigest()


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b"]
    done = subprocess.run(["git", "-C", folder, *names, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(COMMIT, raising=False)
    (tmp_path / "source" / "ftlib").mkdir(parents=True)
    (tmp_path / "source" / "requirements.lock").write_bytes(LOCK)
    return tmp_path / "source"


def commit(folder: Path) -> str:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


def built(source: Path) -> Path:
    target = source.parent / "built"
    (target / "ftlib").mkdir(parents=True)
    write_origin(target, source)
    return target


def test_a_checkout_says_its_commit_and_that_files_differ(source: Path) -> None:
    head = commit(source)
    assert origin(source) == Origin(head, DIGEST, checkout=True)
    (source / "requirements.lock").write_bytes(LOCK + b"numpy==2.3.0\n")
    assert origin(source).commit == f"{head}-dirty"


def test_what_is_built_says_it_where_no_repository_is(source: Path) -> None:
    head = commit(source)
    target = built(source)
    assert origin(target) == Origin(head, DIGEST, checkout=False)
    # An sdist's wheel: from what the sdist has with it.
    again = target.parent / "again"
    (again / "ftlib").mkdir(parents=True)
    write_origin(again, target)
    assert origin(again) == Origin(head, DIGEST, checkout=False)


def test_a_build_without_a_repository_is_told_or_does_not_know(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(source.parent)  # of something around it
    assert origin(source) == Origin(UNKNOWN, DIGEST, checkout=False)
    target = built(source)
    assert origin(target) == Origin(UNKNOWN, DIGEST, checkout=False)
    monkeypatch.setenv(COMMIT, "ab12cd3")
    write_origin(target, source)
    assert json.loads((target / BUILT).read_text()) == {"commit": "ab12cd3", "lock_sha256": DIGEST}
    monkeypatch.setenv(COMMIT, "main; rm -r /")
    with pytest.raises(ValueError, match="is no commit"):
        write_origin(target, source)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"commit": "a"}'])
def test_a_damaged_record_is_unknown(source: Path, content: str) -> None:
    (source / BUILT).write_text(content)
    (source / "requirements.lock").unlink()
    assert origin(source) == Origin(UNKNOWN, UNKNOWN, checkout=False)


def test_a_checkout_that_git_refuses_is_unknown(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / ".git").mkdir()
    assert origin(source).commit == UNKNOWN
    monkeypatch.setenv("PATH", "/nowhere")
    assert origin(source).commit == UNKNOWN
