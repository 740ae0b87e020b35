"""The training's log: curves.jsonl, one JSON object per optimiser step or evaluation, written by the first rank.

`starts.jsonl` beside it has a line for every time the workers began: the first at step 0, the others where a lost
worker or a stopped run left off. `stop` beside it asks the workers to end.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TextIO

from ftlib.errors import Interrupted
from ftlib.progress import emit

FILE = "curves.jsonl"
STARTS = "starts.jsonl"
STOP = "stop"
STEPS = "steps"
"""The unit of a training's signs of life."""
RESTART = "restart"
"""The unit of the sign of life that says the workers began again, at `done` steps."""


class Curves:
    """Appends records; flushed line by line, so that whoever follows the file sees a step when it is done."""

    def __init__(self, run: Path, phase: str, *, active: bool) -> None:
        """Open the run's file; an inactive one (every rank but the first) drops what it is given."""
        self._path, self._phase, self._active = run / FILE, phase, active
        self._stream: TextIO | None = None
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

    @property
    def asks_to_stop(self) -> bool:
        """Say whether somebody who follows this training asked that it end: it ends behind a whole step."""
        return self._active and (self._heard_stop or self._path.with_name(STOP).exists())

    def rewind(self, step: int) -> None:
        """Begin at `step`: the records after it are dropped, since a resumed run writes them again."""
        if not self._active:
            return
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
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()
        try:
            show(self._phase, self.total, record)
        except Interrupted:
            self._heard_stop = True  # in the middle of a step nothing could be saved


def read(path: Path) -> list[dict[str, float | int]]:
    """Return the whole records of a file; a line that a kill cut off is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def show(phase: str, total: int, record: dict[str, float | int]) -> None:
    """Emit a record as progress."""
    told = ("loss", "validation_loss", "reward", "validation_reward", "kl", "samples_per_second")
    facts = {key: record[key] for key in told if key in record}
    emit(f"train {phase}", int(record["step"]), total, STEPS, **facts)


@contextmanager
def follow(run: Path, phase: str, total: int, every_seconds: float = 0.5) -> Generator[None]:
    """Emit the records that other processes write, while the block runs; a listener's Interrupted is passed to them.

    They are emitted in the caller's context: a run page files what it hears under the task that is running.
    """
    done = threading.Event()

    def tell(what: Callable[[], None]) -> None:
        try:
            what()
        except Interrupted:
            (run / STOP).touch()

    def watch() -> None:
        """Show what the run's files say of its steps and restarts, until it is done."""
        seen, starts, ended = 0, 0, False
        latest: dict[str, float | int] = {}
        while not ended:
            ended = done.wait(every_seconds)  # one look more, at the last steps
            began = read(run / STARTS)
            for start in began[max(starts, 1) :]:
                tell(partial(emit, f"train {phase}", int(start["step"]), total, RESTART))
            starts = len(began)
            records = read(run / FILE)
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
