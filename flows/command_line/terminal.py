"""What `reglage run` shows while it runs: bars on a terminal, plain lines in a log; and it lets Ctrl-C through."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from flows.pages.progress_lines import facts_line, note_line, restart_line, stage_line
from ftlib.errors import Interrupted
from ftlib.progress import BYTES, NOTE, Progress, listen
from ftlib.storage.files import in_bytes
from ftlib.training.curves import RESTART, STEPS
from tasks.runner import STAGE

LINE_EVERY_SECONDS = 10.0
GRACE_SECONDS = 5.0
"""How long a stopped run may take to end by itself; a hard end loses nothing, since half-made output is invisible."""
TRAINING_GRACE_SECONDS = 25.0
"""The same while a phase trains, which ends its step and saves it: less than Kubernetes gives a pod by default."""

STOPPED = "stopped; run the same command again to go on from where it was"
STOPPED_IN_A_STEP = "stopped in the middle of a step; the same command goes on from the last checkpoint before it"


@contextmanager
def shown() -> Generator[None]:
    """Show the stages' signs of life on stderr while the block runs."""
    console = Console(stderr=True, highlight=False, emoji=False)
    if not console.is_terminal:
        with listen(Lines(console)):
            yield
        return
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}", style="cyan", markup=False),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars, listen(TerminalBars(bars)):
        yield


@dataclass
class TerminalBars:
    """One bar for each stage that is going on; a finished stage leaves one line."""

    bars: Bars
    _open: dict[str, TaskID] = field(default_factory=dict[str, TaskID])

    def __call__(self, sign: Progress) -> None:
        """Take a sign of life."""
        if sign.unit == STAGE:
            for name in [name for name in self._open if name.startswith(sign.stage.split(" ")[0])]:
                self.bars.remove_task(self._open.pop(name))
            self.bars.console.print(stage_line(sign), soft_wrap=True)
            return
        if sign.unit in (RESTART, NOTE):
            self.bars.console.print(restart_line(sign) if sign.unit == RESTART else note_line(sign))
            return
        if sign.stage not in self._open:
            self._open[sign.stage] = self.bars.add_task(sign.stage, total=sign.total, facts="")
        self.bars.update(self._open[sign.stage], completed=sign.done, total=sign.total, facts=facts_line(sign))


@dataclass
class Lines:
    """A line now and then, for logs."""

    console: Console
    _last: dict[str, float] = field(default_factory=dict[str, float])

    def __call__(self, sign: Progress) -> None:
        """Take a sign of life."""
        if sign.unit == STAGE:
            self.console.print(stage_line(sign), soft_wrap=True)
        elif sign.unit == RESTART:
            self.console.print(restart_line(sign))
        elif sign.unit == NOTE:
            self.console.print(note_line(sign), soft_wrap=True)
        elif monotonic() - self._last.setdefault(sign.stage, monotonic()) > LINE_EVERY_SECONDS:
            self._last[sign.stage] = monotonic()
            self.console.print(f"  {sign.stage}  {_how_far(sign)}  {facts_line(sign)}".rstrip(), markup=False)


def _how_far(sign: Progress) -> str:
    if sign.unit == BYTES:
        return f"{in_bytes(sign.done)} of {in_bytes(sign.total)}"
    return f"{sign.done}/{sign.total} {sign.unit}"


@contextmanager
def stoppable(say: Callable[[str], None]) -> Generator[None]:
    """Make Ctrl-C and SIGTERM end the block within seconds, wherever it is.

    The main thread gets KeyboardInterrupt, and passes it on (`tasks/runner.py`). If that does not end the process in
    GRACE_SECONDS, or at a second signal, it ends at once: records are written last, locks are the kernel's, and Ray
    and the Prefect server end with this process.
    """
    asked, left, ear = threading.Event(), threading.Event(), _Ear()

    def end_now() -> None:
        if not left.is_set():
            say(STOPPED_IN_A_STEP if ear.trains else STOPPED)
        os._exit(Interrupted.exit_code)

    def stop(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            end_now()
        asked.set()
        grace = TRAINING_GRACE_SECONDS if ear.trains else GRACE_SECONDS
        if ear.trains:
            say(f"stopping: the training ends its step and saves it, for at most {grace:g} s; Ctrl-C again ends it now")
        timer = threading.Timer(grace, end_now)
        timer.daemon = True
        timer.start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with listen(ear):
            yield
    finally:
        left.set()
        if not asked.is_set():  # else they stay, for the impatient
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class _Ear:
    """Hears whether a phase is training just now."""

    trains: bool = False

    def __call__(self, sign: Progress) -> None:
        if sign.unit in (STEPS, STAGE):
            self.trains = sign.unit == STEPS


def say_on_stderr(line: str) -> None:
    """Print one line without rich, whose lock a dying thread may hold."""
    os.write(sys.stderr.fileno(), f"reglage: {line}\n".encode())
