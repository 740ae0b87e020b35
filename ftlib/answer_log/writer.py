"""The writing half of an answer log: records go into memory at once, and to the place behind the requests' back.

    <place>/answers/20261128T063000Z-<writer>-00000007.jsonl    answers
    <place>/labels/20261128T063100Z-<writer>-00000002.jsonl     what became known of them later

Every file is created once and whole, under a name that no other writer draws: any number of servers write into one
place, and one that is killed leaves whole files. What it had in memory is lost, at most `seconds` of answers.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from datetime import UTC, datetime

from pydantic import Field

from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.config import Config
from ftlib.errors import ReglageError, first_line
from ftlib.storage.store import Store

ROWS, SECONDS, MOST = 1000, 10.0, 20_000
ANSWERS, LABELS = "answers", "labels"
"""The folders of a log in which `LiveAnswer` and `LateLabel` records lie."""
_AGAIN_SECONDS = 5.0
"""After a place has refused a file, nothing is tried for so long; never longer than a file is waited for."""


class LogState(Config):
    """How a log is doing, for whoever looks at the server."""

    place: str
    written: int = Field(ge=0)
    """Records that are in files."""
    waiting: int = Field(ge=0)
    """Records in memory."""
    dropped: int = Field(ge=0)
    """Records for which there was no room in memory while the place refused files; they are lost."""
    error: str | None = None
    """Why the place refused the last file; None while it takes them."""


class LogWriter:
    """Appends records to a log. `append` never waits and never fails; a thread of its own writes."""

    def __init__(self, store: Store, folder: str, rows: int = ROWS, seconds: float = SECONDS, most: int = MOST) -> None:
        """Write files of `rows` records, or what there is after `seconds`, and hold at most `most` in memory."""
        self._store, self._folder = store, folder
        self._rows, self._seconds, self._most = rows, seconds, most
        self._writer, self._number = uuid.uuid4().hex[:12], 0
        self._records = deque[bytes]()
        self._file: tuple[str, list[bytes]] | None = None
        self._oldest: float | None = None
        self._written = self._dropped = 0
        self._error: str | None = None
        self._turn = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="reglage-answer-log", daemon=True)
        self._thread.start()

    def append(self, record: LiveAnswer | LateLabel) -> None:
        """Take a record to be written soon; it is dropped, and counted, where memory for them is full."""
        line = record.model_dump_json().encode() + b"\n"
        with self._turn:
            if self._closing or len(self._records) >= self._most:
                self._dropped += 1
                return
            self._records.append(line)
            if self._oldest is None:
                self._oldest = time.monotonic()
                self._turn.notify()
            elif len(self._records) >= self._rows:
                self._turn.notify()

    def state(self) -> LogState:
        """Say how it is doing."""
        with self._turn:
            return LogState(
                place=f"{self._store.uri}/{self._folder}",
                written=self._written,
                waiting=len(self._records),
                dropped=self._dropped,
                error=self._error,
            )

    def close(self, seconds: float = 10.0) -> None:
        """Write what is in memory and end, in at most `seconds`; what a place does not take by then is lost."""
        with self._turn:
            self._closing = True
            self._turn.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while self._wait():
            if not self._write() and self._rest():
                return

    def _wait(self) -> bool:
        """Wait until a file is due; False where nothing is left and nothing will come."""
        with self._turn:
            while True:
                if self._records and (self._closing or len(self._records) >= self._rows):
                    return True
                if self._closing:
                    return False
                left = None if self._oldest is None else self._oldest + self._seconds - time.monotonic()
                if left is not None and left <= 0:
                    return True
                self._turn.wait(left)

    def _rest(self) -> bool:
        """Wait before a place is tried again; True at the end, where one refusal is enough."""
        with self._turn:
            if not self._closing:
                self._turn.wait_for(lambda: self._closing, min(_AGAIN_SECONDS, self._seconds))
                return False
            return True

    def _write(self) -> bool:
        """Write one file; say whether the place took it. What it does not take stays in memory, in order.

        A file that was refused is tried again under its name: its bytes may be there, and only the reply was lost.
        """
        if self._file is None:
            with self._turn:
                lines = [self._records[i] for i in range(min(self._rows, len(self._records)))]
            self._number += 1
            at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
            self._file = (f"{self._folder}/{at}-{self._writer}-{self._number:08d}.jsonl", lines)
        path, lines = self._file
        try:
            self._store.create(path, b"".join(lines))  # False: the name is this writer's, so are the bytes
        except Exception as error:  # whatever a storage library raises: a request must never see it
            with self._turn:
                self._error = str(error) if isinstance(error, ReglageError) else first_line(error)
            return False
        with self._turn:
            self._error, self._file = None, None
            for _ in lines:
                self._records.popleft()
            self._written += len(lines)
            self._oldest = time.monotonic() if self._records else None
        return True
