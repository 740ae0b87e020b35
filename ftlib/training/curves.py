"""The training's log: curves.jsonl, one JSON object per optimiser step or evaluation, written by the first rank.

`starts.jsonl` beside it has a line for every time the workers began: the first at step 0, the others where a lost
worker or a stopped run left off. `stop` beside it asks the workers to end.

In a bucket, which knows no append, the same goes up as numbered objects, `curves/00000001.jsonl` and so on: each has
the records of some seconds. One that begins with a start takes back the records behind that step. Their reader asks for
the next number until it is absent. Each is created, never replaced, so a rank of an attempt that was given up finds the
number taken by the next attempt, and ends. A driver's attempt has a curve of its own, and `run_place` says where: its
first object repeats what the attempts before it recorded up to the step that it goes on from.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from uuid import uuid4

from ftlib.errors import Interrupted, ReglageError, TransientError
from ftlib.progress import emit, note
from ftlib.storage.claims import ClaimLostError
from ftlib.storage.files import flush_file
from ftlib.training.checkpoints.run_place import RunPlace

FILE = "curves.jsonl"
STARTS = "starts.jsonl"
STOP = "stop"
FOLDER = "curves"
STEPS = "steps"
"""The unit of a training's signs of life."""
RESTART = "restart"
"""The unit of the sign of life that says the workers began again, at `done` steps."""
_SHORTEST_SECONDS, _LONGEST_SECONDS = 2.0, 20.0
"""Between two objects of a curve: the longer it trains, the less often."""

Record = dict[str, float | int]


class Curves:
    """Appends records; flushed line by line, so that whoever follows the file sees a step when it is done."""

    def __init__(self, place: RunPlace, phase: str, *, active: bool) -> None:
        """Open the run's file; an inactive one (every rank but the first) drops what it is given."""
        self._path, self._phase, self._active = place.folder / FILE, phase, active
        self._stream: TextIO | None = None
        self._sent = None if place.is_shared or not active else _Sender(place)
        self.total = 0
        """Steps the phase will take; for progress only."""
        self._heard_stop = False

    def __enter__(self) -> Curves:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream:
            self._stream.close()
        if self._sent:
            self._sent.end()

    @property
    def asks_to_stop(self) -> bool:
        """Say whether somebody who follows this training asked that it end: it ends behind a whole step."""
        asked = self._sent.asks_to_stop if self._sent else self._path.with_name(STOP).exists()
        return self._active and (self._heard_stop or asked)

    def rewind(self, step: int) -> None:
        """Begin at `step`: the records after it are dropped, since a resumed run writes them again."""
        if not self._active:
            return
        if self._sent:
            self._sent.begin(step, self._path)
        starts = self._path.with_name(STARTS)
        again = starts.exists()
        with starts.open("a") as stream:
            stream.write(json.dumps({"step": step}) + "\n")
        if again:
            emit(f"train {self._phase}", step, self.total, RESTART)
        kept = [record for record in read(self._path) if record["step"] <= step]
        self._path.write_text("".join(json.dumps(record) + "\n" for record in kept))
        self._stream = self._path.open("a")

    def write(self, **record: float | int) -> None:
        """Append a record: `step`, `epoch`, and `loss` with its companions, or what is watched of validation rows."""
        if self._stream is None:
            return
        line = json.dumps(record) + "\n"
        self._stream.write(line)
        self._stream.flush()
        if self._sent:
            self._sent.add(line)
        try:
            show(self._phase, self.total, record)
        except ClaimLostError:
            raise  # another goes on, so nothing is to be saved
        except Interrupted:
            self._heard_stop = True  # in the middle of a step nothing could be saved

    def flush(self) -> None:
        """Make what was written survive, as a checkpoint of a step promises the curve up to it; on any thread.

        Raises StorageError or TransientError where a bucket does not take it.
        """
        if self._sent:
            self._sent.send()
        elif self._path.exists():
            flush_file(self._path)


class _Sender:
    """Sends a curve to a bucket from a thread, and looks there whether somebody asks to stop."""

    def __init__(self, place: RunPlace) -> None:
        self.asks_to_stop = False
        self._place, self._by, self._number = place, uuid4().hex, 0
        self._lines: list[str] = []
        self._sending, self._done, self._began = threading.Lock(), threading.Event(), time.monotonic()
        self._told = False
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="curves", daemon=True)

    def begin(self, step: int, path: Path) -> None:
        """Take the curve so far to this node's disk, and say in the bucket that it goes on from `step`."""
        reader = _Reader(self._place)
        facts, lines = dict[str, Any](start=step), list[str]()
        if not reader.look():
            reader = _inherited(self._place, step)
            facts["starts"] = reader.starts
            lines = [json.dumps(record) + "\n" for record in reader.records if record["step"] <= step]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in reader.records))
        path.with_name(STARTS).unlink(missing_ok=True)
        if reader.starts:
            path.with_name(STARTS).write_text("".join(json.dumps({"step": start}) + "\n" for start in reader.starts))
        self._number = 0 if "starts" in facts else reader.number
        while not self._create(facts, lines):  # a rank of an earlier attempt that does not know yet that it is over
            self._number += 1
        self._thread.start()

    def add(self, line: str) -> None:
        self._lines.append(line)

    def send(self) -> None:
        """Send what there is. Raises TransientError where another attempt has begun since."""
        with self._sending:
            lines = self._lines[:]
            if not lines:
                return
            if not self._create({}, lines):
                raise TransientError(f"{self._place.uri}: another attempt of this training has begun; this one ends")
            del self._lines[: len(lines)]

    def end(self) -> None:
        """Send the rest, if the bucket takes it: the whole curve goes with the result anyway."""
        self._done.set()
        if self._thread.is_alive():
            self._thread.join(_LONGEST_SECONDS)

    def _create(self, facts: dict[str, Any], lines: list[str] | None = None) -> bool:
        """Create the next object: its first line says whose it is, so that a lost reply is told from a lost race."""
        data = json.dumps({"by": self._by, **facts}) + "\n" + "".join(lines or [])
        made = self._place.create(_name(self._number + 1), data.encode())
        self._number += made
        return made

    def _run(self) -> None:
        ended = False
        while not ended:
            passed = time.monotonic() - self._began
            ended = self._done.wait(min(_LONGEST_SECONDS, _SHORTEST_SECONDS + passed / 100))
            try:
                self.send()
                self.asks_to_stop = self.asks_to_stop or self._place.has(STOP) or self._place.is_superseded
                self._told = False
            except ReglageError as error:
                if not self._told:
                    self._told = True
                    with suppress(Interrupted):
                        note("curves", f"they are sent later: {error}")


class _Reader:
    """Reads a bucket's numbered objects as one curve."""

    def __init__(self, place: RunPlace) -> None:
        self._place = place
        self.number = 0
        """Of the last object that was read."""
        self.records: list[Record] = []
        self.starts: list[int] = []
        self.taken_back = 0
        """How often records were."""

    def look(self) -> bool:
        """Read what came since; say whether anything did."""
        before = self.number
        for number, data in self._place.numbered(FOLDER, ".jsonl", self.number):
            facts, *records = [json.loads(line) for line in data.decode().splitlines()]
            if "start" in facts:
                self.taken_back += bool(self.starts)
                self.starts += [*facts.get("starts", []), int(facts["start"])]
                self.records = [record for record in self.records if record["step"] <= self.starts[-1]]
            self.records += records
            self.number = number
        return self.number > before


def _inherited(place: RunPlace, step: int) -> _Reader:
    """Return the newest curve of an earlier attempt that reaches a step, or the newest there is; else an empty one."""
    newest: _Reader | None = None
    for earlier in place.earlier():
        reader = _Reader(earlier)
        if reader.look():
            newest = newest or reader
            if step <= max((record["step"] for record in reader.records), default=0):
                return reader
    return newest or _Reader(place)


def _name(number: int) -> str:
    return f"{FOLDER}/{number:08d}.jsonl"


def read(path: Path) -> list[Record]:
    """Return the whole records of a file; a line that a kill cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def show(phase: str, total: int, record: Record) -> None:
    """Emit a record as progress."""
    told = ("loss", "validation_loss", "reward", "validation_reward", "kl", "samples_per_second")
    facts = {key: record[key] for key in told if key in record}
    emit(f"train {phase}", int(record["step"]), total, STEPS, **facts)


class _Followed:
    """A curve that other processes write, as who follows it sees it."""

    def __init__(self, place: RunPlace, mirror: Path | None) -> None:
        self._place, self._mirror = place, mirror
        self._reader = None if place.is_shared else _Reader(place)

    def look(self) -> tuple[list[int], list[Record]]:
        """Return the starts and the records there are now."""
        if self._reader is None:
            starts = [int(start["step"]) for start in read(self._place.folder / STARTS)]
            return starts, read(self._place.folder / FILE)
        taken_back = self._reader.taken_back
        seen = len(self._reader.records)
        if self._reader.look() and self._mirror is not None:  # for who follows the file on this machine
            again = self._reader.taken_back > taken_back
            new = self._reader.records if again else self._reader.records[seen:]
            with self._mirror.open("w" if again else "a") as stream:
                stream.write("".join(json.dumps(record) + "\n" for record in new))
        return [*self._reader.starts], [*self._reader.records]


@contextmanager
def follow(
    place: RunPlace, phase: str, total: int, every_seconds: float = 0.5, mirror: Path | None = None
) -> Generator[None]:
    """Emit the records that other processes write, while the block runs; a listener's Interrupted is passed to them.

    They are emitted in the caller's context: a run page files what it hears under the task that is running. A bucket's
    are also written to the file `mirror`.
    """
    done = threading.Event()
    followed = _Followed(place, mirror)

    def tell(what: Callable[[], None]) -> None:
        try:
            what()
        except Interrupted:
            with suppress(ReglageError):
                ask_to_stop(place)

    def watch() -> None:
        """Show what the run's files say of its steps and restarts, until it is done."""
        seen, starts, ended = 0, 0, False
        latest: Record = {}
        while not ended:
            ended = done.wait(every_seconds if place.is_shared else max(every_seconds, _SHORTEST_SECONDS / 2))
            try:  # one look more, at the last steps
                began, records = followed.look()
            except ReglageError:
                continue  # a bucket that does not answer now may do so later, and the workers know for themselves
            for start in began[max(starts, 1) :]:
                tell(partial(emit, f"train {phase}", start, total, RESTART))
            starts = len(began)
            if len(records) < seen:  # a restarted worker rewound the file
                seen = 0
            for record in records[seen:]:
                latest |= record  # a record has a step's loss or a validation's, and both are of interest
            if records[seen:]:
                tell(partial(show, phase, total, latest))
            seen = len(records)

    thread = threading.Thread(target=copy_context().run, args=(watch,), name=f"follow {phase}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def ask_to_stop(place: RunPlace) -> None:
    """Ask the workers of a run to end behind a whole step."""
    if place.is_shared:
        (place.folder / STOP).touch()
    else:
        place.write(STOP, b"stop\n")
