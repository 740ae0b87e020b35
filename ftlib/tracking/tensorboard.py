"""Event files for TensorBoard, one folder a training, drawn from the curves.

<folder>/<recipe>/<key>/<training>/       loss, learning rate, gradient norm, validation loss, ... by step
<folder>/<recipe>/<key>/evaluations/      each metric of each candidate, by the candidate's place
<folder>/<recipe>/<key>/                  the recipe and a table of what was measured, as text

Where a resumed run takes steps back, the file is written again: a file has each step once, and its first event tells
a TensorBoard that runs to forget what it has read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from typing_extensions import override

from ftlib.config import SELECTION, user_path
from ftlib.tracking.follower import Tracker
from ftlib.tracking.state import Curve, RunState
from ftlib.wording import escaped

Event: TypeAlias = Any
"""tensorboardX's Event, a protocol buffer made as it is imported; that costs seconds and loads torch."""
_OWN = ".reglage"
"""What our files end with: others in the folder are left alone."""


class TensorBoard(Tracker):
    """Writes below a folder of this machine."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder).absolute()
        self.name = f"TensorBoard in {self.folder}"
        self._files: dict[str, _EventFile] = {}
        self._drawn: dict[str, tuple[int, int]] = {}
        """Of each training, which generation of its curve and how many of the records are in its file."""
        self._told: dict[str, object] = {}

    @override
    def show(self, state: RunState) -> None:
        top = f"{state.recipe.name}/{state.key}"
        for curve in state.curves:
            self.draw(f"{top}/{curve.name}", curve)
        self._tell(top, _recipe(state), lambda: [_text("recipe", _recipe(state), 0)])
        measured = state.evaluations()
        if measured:
            self._tell(f"{top}/evaluations", measured, lambda: [*_candidates(state), _text("table", _table(state), 0)])

    @override
    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def draw(self, name: str, curve: Curve) -> None:
        """Bring one training's file up to what was read of its curve."""
        records = [*curve.records]
        if not records:  # solved for, or before its first step
            return
        generation, count = self._drawn.get(name, (-1, 0))
        file = self._files.get(name)
        if file is None or generation != curve.generation or not file.path.exists():
            file, count = self._begin(name), 0
        now = curve.written or time.time()
        for record in records[count:]:
            step = int(record["step"])
            file.write(_event(now, step, {key: value for key, value in record.items() if key != "step"}))
        file.flush()
        self._drawn[name] = (curve.generation, len(records))

    def _tell(self, name: str, what: object, events: Callable[[], Iterable[Event]]) -> None:
        """Write a file again if it is to say something else."""
        if self._told.get(name) != what or not self._files[name].path.exists():
            file = self._begin(name)
            for event in events():
                file.write(event)
            file.flush()
            self._told[name] = what

    def _begin(self, name: str) -> _EventFile:
        if name in self._files:
            self._files[name].close()
        self._files[name] = _EventFile(self.folder / name)
        return self._files[name]


class _EventFile:
    """A file of events in place of an earlier one of ours."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX.record_writer import RecordWriter

        events = _events()

        folder.mkdir(parents=True, exist_ok=True)
        earlier = sorted(folder.glob(f"events.out.tfevents.*{_OWN}"))
        after = max((int(path.name.split(".")[3]) for path in earlier), default=0)
        # TensorBoard goes on with the file whose name comes next.
        self.path = folder / f"events.out.tfevents.{max(time.time_ns() // 1000, after + 1)}{_OWN}"
        self._writer: Any = RecordWriter(str(self.path))
        now = time.time()
        self.write(events.Event(wall_time=now, file_version="brain.Event:2"))
        begins = events.SessionLog(status=events.SessionLog.START)
        self.write(events.Event(wall_time=now, step=0, session_log=begins))
        for path in earlier:
            path.unlink(missing_ok=True)

    def write(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _events() -> Any:
    from tensorboardX.proto import event_pb2

    return event_pb2


def _event(at: float, step: int, values: Mapping[str, float | int]) -> Event:
    from tensorboardX.proto import summary_pb2

    kind: Any = getattr(summary_pb2, "Summary")  # noqa: B009
    # A slash groups charts; of a mixture's parts the curves say `loss:part`.
    numbers = [kind.Value(tag=key.replace(":", "/"), simple_value=value) for key, value in values.items()]
    return _events().Event(wall_time=at, step=step, summary=kind(value=numbers))


def _text(tag: str, markdown: str, step: int) -> Event:
    from tensorboardX.summary import text

    return _events().Event(wall_time=time.time(), step=step, summary=text(tag, markdown))


def _recipe(state: RunState) -> str:
    """Return the recipe as TensorBoard's markdown shows it, with what became of it."""
    asked: Any = state.recipe.model_dump(mode="json", exclude_unset=True)
    lines = yaml.safe_dump(asked, sort_keys=False, allow_unicode=True).splitlines()
    trained = [f"- {escaped(curve.name)}: `{curve.fingerprint}`" for curve in state.curves]
    ended = [f"- published: {escaped(state.published)}"] if state.published else []
    return "\n".join([*trained, *ended, "", *(f"    {line}" for line in lines)])


def _candidates(state: RunState) -> list[Event]:
    places: dict[tuple[str, str], int] = {}
    events: list[Event] = []
    for split, metric, _, value, _, _ in state.evaluations():
        number = places[split, metric] = places.get((split, metric), -1) + 1
        events.append(_event(time.time(), number, {f"{metric} {split}": value}))
    return events


def _table(state: RunState) -> str:
    """Return every number that was measured, with its interval, and the place that the charts have it at."""
    rows = ["| split | metric | place | candidate | value | interval |", "|---|---|---|---|---|---|"]
    places: dict[tuple[str, str], int] = {}
    for split, metric, candidate, value, low, high in sorted(
        state.evaluations(), key=lambda cell: cell[0] != SELECTION
    ):
        number = places[split, metric] = places.get((split, metric), -1) + 1
        between = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
        rows.append(f"| {split} | {escaped(metric)} | {number} | {escaped(candidate)} | {value:.4f} | {between} |")
    return "\n".join(rows)
