"""What a run shows on its page while it goes on: one text that grows, and in the log one line a stage.

The text has the stage that is going on, how far it is, the loss curves of every training so far, and what was done. It
is brought up to date on a thread of its own, which holds up no step; the curves are read from the work folder, so a run
that was killed goes on with the curves that it had.
"""

import base64
import os
import re
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging import get_run_logger
from rich.text import Text

from flows.pages.progress_lines import facts_line, note_line, remedy_lines, restart_line, stage_line
from flows.pages.run_page import artifact_key, show_markdown
from ftlib.errors import Interrupted, ReglageError, first_line
from ftlib.progress import NOTE, Progress, listen
from ftlib.report.live_curves import LossCurve, loss_curves
from ftlib.stages.step import Step
from ftlib.tracking.state import Curve
from ftlib.training.curves import RESTART, STEPS
from ftlib.wording import escaped, table
from ftlib.workspace import Workspace
from tasks.runner import STAGE

TENSORBOARD = "REGLAGE_TENSORBOARD_URL"
"""The variable that says where `reglage up` shows TensorBoard."""
EVERY_SECONDS = 5.0
"""How often the text is written; it is a row of Prefect's database that is replaced."""
CURVES_EVERY_SECONDS = 30.0
EVERY_SHARE = 0.1
"""Of a training's steps: how often the run's log gets a line."""

_BAR = 20
_END_SECONDS = 20.0
"""How long a run that is over waits for its page."""
_LOOK_SECONDS = 0.5


@dataclass
class _Going:
    """A stage that is going on."""

    sign: Progress
    began: float
    first: int
    """Steps that were done when it was first heard of: a resumed training begins in the middle."""
    logged: float = 0.0

    @property
    def left(self) -> float | None:
        """Return the seconds that are left at the speed so far; None where nothing is known of it yet."""
        done = self.sign.done - self.first
        return (self.sign.total - self.sign.done) * (monotonic() - self.began) / done if done > 0 else None


@dataclass
class LivePage:
    """Hears a run's signs of life, and knows its trainings."""

    run: str
    work: Workspace
    _going: dict[str, _Going] = field(default_factory=dict[str, _Going])
    _done: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Every stage that is done, and what is said of it."""
    _notes: list[str] = field(default_factory=list[str])
    _curves: list[Curve] = field(default_factory=list[Curve])
    _totals: dict[str, int] = field(default_factory=dict[str, int])
    _drawn: str = ""
    _drawn_at: float = -CURVES_EVERY_SECONDS
    _end: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _news: threading.Event = field(default_factory=threading.Event)
    _over: threading.Event = field(default_factory=threading.Event)
    _warned: bool = False

    def begun(self, step: Step) -> None:
        """Hear that a stage begins: the curves of a training are drawn from what it writes."""
        job = step.job
        if job is not None and job.stage == "train":
            with self._lock:
                if all(curve.fingerprint != job.fingerprint for curve in self._curves):
                    self._curves.append(Curve(step.which, job.fingerprint, self.work.folder(job)))

    def ended(self, how: str) -> None:
        """Say in a sentence how the run ended. The page is written for the last time when its block is over, or now."""
        self._end = how
        if self._over.is_set():
            self._write(draw=False)

    def __call__(self, sign: Progress) -> None:
        """Take a sign of life from a stage, in the context of the thread that emits it."""
        with self._lock:
            line = self._taken(sign)
            self._news.set()
        if line and (FlowRunContext.get() or TaskRunContext.get()):
            log = get_run_logger()
            log.info(line)
            for remedy in remedy_lines(sign) if sign.unit == STAGE else ():
                log.warning(remedy)

    def _taken(self, sign: Progress) -> str:
        """Keep what a sign says, and return the line that the log gets for it."""
        if sign.unit == NOTE:
            self._notes.append(sign.text)
            return _plain(note_line(sign))
        if sign.unit == RESTART:
            self._going.pop(sign.stage, None)  # speed and time left are the new start's
            self._notes.append(_plain(restart_line(sign)))
            return self._notes[-1]
        if sign.unit == STAGE:
            line = _plain(stage_line(sign))
            kind = sign.stage.rpartition(": ")[2].split(" ")[0]
            self._going = {name: going for name, going in self._going.items() if name.split(" ")[0] != kind}
            self._done.append((sign.stage, line.partition(sign.stage)[2].strip()))
            return line
        if sign.total <= 1:
            return ""
        going = self._going.setdefault(sign.stage, _Going(sign, monotonic(), sign.done))
        going.sign = replace(sign, facts={**going.sign.facts, **sign.facts})
        if sign.unit == STEPS:
            self._totals[sign.stage.removeprefix("train ")] = sign.total
            share = sign.done / sign.total
            if going.logged < min(1.0, share) and (share >= 1.0 or share - going.logged >= EVERY_SHARE):
                going.logged = share
                return progress_line(going.sign, going.left)
        return ""

    def follow(self) -> None:
        """Write the page when there is news, until the run is over."""
        shown, ended = -EVERY_SECONDS, False
        while not ended:
            ended = self._over.wait(_LOOK_SECONDS)
            if ended or (monotonic() - shown >= EVERY_SECONDS and self._news.is_set()):
                self._news.clear()
                self._write(draw=ended or monotonic() - self._drawn_at >= CURVES_EVERY_SECONDS)
                shown = monotonic()

    def close(self) -> None:
        """Say that the run is over."""
        self._over.set()

    def _write(self, *, draw: bool) -> None:
        try:
            show_markdown(artifact_key("progress", self.run), *self.page(draw=draw))
        except Exception as error:  # whatever happens to a page, the run goes on
            if not self._warned:
                self._warned = True
                get_run_logger().warning(f"the run page is not up to date: {first_line(error)}; the run goes on")

    def page(self, *, draw: bool) -> tuple[str, str]:
        """Return the page's markdown and its one line; with `draw` the curves are those of now."""
        with self._lock:
            going = list(self._going.values())[-1:]
            if draw:
                self._draw()
            parts = [*self._parts(going[0] if going and not self._end else None)]
            line = self._end or (progress_line(going[0].sign, going[0].left) if going else self._done_line())
        return "\n\n".join(parts) + "\n", line

    def _draw(self) -> None:
        new = [curve.read() for curve in self._curves]
        if any(new) or not self._drawn:
            self._drawn_at = monotonic()
            svg = loss_curves([self._loss_curve(curve) for curve in self._curves])
            self._drawn = (
                f"![Loss curves](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})" if svg else ""
            )

    def _loss_curve(self, curve: Curve) -> LossCurve:
        def points(name: str) -> list[tuple[float, float]]:
            return [(record["step"], record[name]) for record in curve.records if name in record]

        return LossCurve(curve.name, points("loss"), points("validation_loss"), self._totals.get(curve.name, 0))

    def _done_line(self) -> str:
        return f"{self._done[-1][0]} is done" if self._done else "begins"

    def _parts(self, going: _Going | None) -> Iterator[str]:
        """Yield the sections of the page: what goes on now first, then the curves, then what is done."""
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
        yield f"# {escaped(self.run)}"
        if self._end:
            yield f"{escaped(self._end)} ({now})"
        elif going:
            yield from _going_parts(going, now)
        else:
            yield f"{escaped(self._done_line())}; as of {now}"
        if url := os.environ.get(TENSORBOARD):
            yield f"[TensorBoard]({url})"
        if self._drawn:
            yield self._drawn
        if self._notes:
            yield "\n".join(f"- {escaped(words)}" for words in dict.fromkeys(self._notes))
        if self._done:
            yield table([["done", ""], *([stage, said] for stage, said in self._done)])


def _going_parts(going: _Going, now: str) -> Iterator[str]:
    sign, left = going.sign, going.left
    share = min(1.0, sign.done / sign.total)
    full = round(share * _BAR)
    yield f"`{'█' * full}{'░' * (_BAR - full)}` **{share:.0%}** of {escaped(sign.stage)}"
    facts = {"done": f"{sign.done:,} of {sign.total:,} {sign.unit}"}
    if left is not None and sign.done < sign.total:
        facts["time left"] = _left_words(left)
    facts |= {name.replace("_", " "): f"{value:.4g}" for name, value in sign.facts.items()}
    yield table([["", f"as of {now}"], *map(list, facts.items())])


def progress_line(sign: Progress, left: float | None) -> str:
    """Say how far a stage is: `train tune 40/85 steps  loss 0.412  samples/s 2.9  2 min left`."""
    words = [f"{sign.stage} {sign.done:,}/{sign.total:,} {sign.unit}", facts_line(sign)]
    ends = f"{_left_words(left)} left" if left is not None and sign.done < sign.total else ""
    return "  ".join(word for word in [*words, ends] if word)


def _left_words(left: float) -> str:
    return f"{left:.0f} s" if left < 120 else f"{left / 60:.0f} min"


def _plain(markup: str) -> str:
    """Return one line of rich's markup as text."""
    return re.sub(" {3,}", "  ", Text.from_markup(markup.partition("\n")[0]).plain)


@contextmanager
def live_page(run: str, work: Workspace) -> Generator[LivePage]:
    """Keep a run's page up to date while the block runs, and say on it how the block ended; its end is `ended`'s."""
    page = LivePage(run, work)
    context = copy_context()  # the page is the flow's, whoever emits
    thread = threading.Thread(target=context.run, args=(page.follow,), name="run page", daemon=True)
    thread.start()
    try:
        with listen(page):
            yield page
    except BaseException as error:
        page.ended(_failed(error))
        raise
    finally:
        page.close()
        thread.join(_END_SECONDS)


def _failed(error: BaseException) -> str:
    if isinstance(error, ReglageError) and not isinstance(error, Interrupted):
        return f"Failed: {error}"
    if isinstance(error, Exception) and not isinstance(error, Interrupted):
        return f"Failed: {type(error).__name__}: {first_line(error)}"
    return "Stopped; run it again, and it goes on from where it was."
