"""A Ray that does not start."""

import contextlib
import fcntl
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from ftlib.errors import TransientError
from ftlib.on_ray import session as sessions
from ftlib.on_ray.session import session
from ftlib.training.compute import Compute


def test_a_ray_that_does_not_start_is_one_line_and_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore words.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    before = signal.getsignal(signal.SIGTERM)
    words = r"^Ray did not start on this machine: The current node timed out .*workers: 0$"
    with pytest.raises(TransientError, match=words), session(Compute(workers=1)):
        raise AssertionError("it was used")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_folder_that_another_run_sweeps_before_it_is_locked_is_made_anew_and_guarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, swept = fcntl.flock, list[Path]()

    def late(lock: Any, how: int) -> None:
        if how == fcntl.LOCK_EX and not swept:
            swept.append(Path(lock.name).parent)
            shutil.rmtree(swept[0])
        flock(lock, how)

    monkeypatch.setattr(fcntl, "flock", late)
    monkeypatch.setattr(sessions, "guarded", lambda folder: contextlib.nullcontext())
    monkeypatch.setattr(sessions, "_LONGEST_ROOT", 1000)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with sessions._own_folder() as folder:
        (own,) = tmp_path.iterdir()
        assert swept
        assert Path(folder).parent == own
        assert own.stat().st_mode & 0o777 == 0o700
        with (own / sessions._LOCK).open("rb") as lock, pytest.raises(BlockingIOError):
            flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert not own.exists()
