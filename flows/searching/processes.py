"""Processes in which trials run, as whoever started them sees one: an order goes in, an outcome comes out."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from flows.searching import process as trial_process
from flows.searching.process import DONE, FATAL, MADE, SIGN, STOP, Order
from ftlib import errors
from ftlib.errors import Interrupted, ReglageError
from ftlib.progress import Progress, emit, note
from ftlib.search.trial import Outcome
from ftlib.storage.files import local_errors, private_folder
from tasks.runner import STAGE

_END_SECONDS = 30.0
"""What ending a local Ray may take."""


class TrialProcess:
    """Runs one trial at a time in a process of its own, which is started for the first and again if it has ended."""

    def __init__(self, log: Path) -> None:
        """Say where the process's other words go; it is not started yet."""
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._speaking = threading.Lock()

    def begin(self) -> None:
        """Start the process, which takes seconds, before there is an order for it."""
        self._started()

    def run(self, name: str, order: Order) -> Outcome:
        """Run a trial; what its stages say is said under its name.

        Raises what is no fault of the trial's values: StorageError, BusyError, TransientError, Interrupted.
        """
        process = self._started()
        self._tell(process, order.model_dump_json())
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            about = said.pop("about")
            if about == DONE:
                return Outcome.model_validate(said["outcome"])
            if about == FATAL:
                raise _error(said)
            with suppress(Interrupted):  # whoever listens stops the search, and that stops its trials
                _pass_on(name, about, said)
        code = process.wait()
        self._process = None
        how = f"by signal {-code}, as one that takes too much memory is" if code < 0 else f"with code {code}"
        return Outcome(state="failed", reason=f"its process ended {how}; its last words are in {self._log}")

    def stop(self) -> None:
        """Ask the trial that goes on to end its step and save it."""
        if self._process is not None:
            self._tell(self._process, json.dumps(STOP))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            assert process.stdin is not None
            process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _started(self) -> "subprocess.Popen[str]":
        """Return the process, started where there is none."""
        if self._process is None:
            with local_errors(self._log):
                private_folder(self._log.parent)
                log: IO[bytes] = self._log.open("ab")
            with log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", trial_process.__name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    bufsize=1,
                    start_new_session=True,  # Ctrl-C is for its parent, which asks it to save
                )
        return self._process

    def _tell(self, process: "subprocess.Popen[str]", line: str) -> None:
        with self._speaking, suppress(OSError):  # that it has ended is seen where it is read
            assert process.stdin is not None
            process.stdin.write(f"{line}\n")
            process.stdin.flush()


def _pass_on(name: str, about: str, said: dict[str, Any]) -> None:
    """Say under the trial's name what one of its stages does; what was there before is not worth a line."""
    if about == SIGN:
        sign = Progress(**said)
        if sign.text:
            note(f"{name}: {sign.stage}", f"{name}: {sign.text}")
        else:
            emit(f"{name}: {sign.stage}", sign.done, sign.total, sign.unit, **sign.facts)
    elif about == MADE and not said["done"]:
        emit(f"{name}: {said['label']}", 1, 1, STAGE, done_before=0.0, seconds=said["seconds"])


def _error(said: dict[str, Any]) -> ReglageError:
    kind: type[ReglageError] = getattr(errors, said["kind"], ReglageError)
    return kind(said["message"])
