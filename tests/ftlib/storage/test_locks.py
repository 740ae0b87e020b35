"""The kernel's locks: who holds one with whom, and what a lock that lost its name is worth."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from ftlib.storage.locks import flocked, is_named


def test_one_holds_alone_and_many_hold_shared(tmp_path: Path) -> None:
    lock = tmp_path / "made" / "a.lock"
    with flocked(lock), pytest.raises(BlockingIOError):
        flocked(lock, wait=False)
    with flocked(lock, shared=True), flocked(lock, shared=True, wait=False), pytest.raises(BlockingIOError):
        flocked(lock, wait=False)
    flocked(lock, wait=False).close()


def test_what_is_refused_leaves_no_file_open(tmp_path: Path) -> None:
    with flocked(tmp_path / "a.lock"):
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(BlockingIOError):
                flocked(tmp_path / "a.lock", wait=False)
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_lock_that_is_deleted_while_it_is_waited_for_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_too: bool
) -> None:
    flock, lock, deleted = fcntl.flock, tmp_path / "of" / "a.lock", list[int]()

    def late(stream: Any, how: int) -> None:
        if len(deleted) < 2:
            deleted.append(os.fstat(stream.fileno()).st_ino)
            lock.unlink()
            if folder_too:
                lock.parent.rmdir()
        flock(stream, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with flocked(lock) as held:
        assert len(deleted) == 2
        assert is_named(held, lock)
        with pytest.raises(BlockingIOError):
            flocked(lock, wait=False)
