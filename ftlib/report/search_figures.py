"""A search's plots: the best so far, and every field's values against the metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlib.report.content import Figure
from ftlib.report.figures import CHOSEN, SHIFTED, TARGET, canvas, legend_below, panels, plain, saved
from ftlib.search.record import SearchRecord
from ftlib.search.space import Choice, DomainBase, written
from ftlib.search.trial import Trial

_LETTERS = 16
"""Of a value below an axis."""
_MARGIN = 0.04
"""Of a field's range, on both sides of it."""


def best_so_far(folder: Path, record: SearchRecord) -> Figure:
    """Draw every trial's metric, and the best of those so far, against the trial's number."""
    done = _measured(record)
    with canvas(9.6, 3.2, 1, 1) as (figure, grid):
        axes = grid[0][0]
        _draw(axes, [trial.number for trial in done], done, record)
        best, line = None, list[float]()
        for trial in done:
            value = trial.measured or 0.0
            better = best is None or (value > best if record.higher_is_better else value < best)
            best = value if better else best
            line.append(best if best is not None else value)
        axes.step([t.number for t in done], line, where="post", color=TARGET, linewidth=1.8, label="best so far")
        _foot(axes, [float(trial.number) for trial in record.trials if trial.outcome.state != "done"])
        axes.set_xlabel("trial")
        axes.locator_params(axis="x", integer=True)
        axes.set_title(plain(record.metric), loc="left")
        legend_below(axes)
        return saved(
            figure, folder, "best_so_far", "Every trial on the validation rows with its interval, in their order."
        )


def fields(folder: Path, record: SearchRecord) -> Figure | None:
    """Draw a panel for each field: its values against the metric."""
    done = _measured(record)
    if not record.search.space:
        return None
    with panels(len(record.search.space)) as (figure, grid):
        for axes, (path, domain) in zip(grid, record.search.space.items(), strict=True):
            _draw(axes, [_place(domain, trial, path) for trial in done], done, record)
            _scale(axes, domain)
            _foot(axes, [_place(domain, trial, path) for trial in record.trials if trial.outcome.state != "done"])
            axes.set_title(plain(_title(path)), loc="left")
            axes.set_ylabel(plain(record.metric))
        return saved(
            figure,
            folder,
            "fields",
            "Every trial by the value of each field: bars are intervals, the other colour is the best, and a cross at "
            "the foot was not measured.",
        )


def _title(path: str) -> str:
    return ".".join(path.split(".")[-2:])


def _measured(record: SearchRecord) -> list[Trial]:
    return [trial for trial in record.trials if trial.outcome.state == "done" and trial.outcome.value]


def _place(domain: DomainBase, trial: Trial, path: str) -> float:
    return float(trial.points[path])


def _scale(axes: Any, domain: DomainBase) -> None:
    if isinstance(domain, Choice):
        names = [written(value) for value in domain.values]
        short = [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…" for name in names]
        axes.set_xticks(range(len(names)), [plain(name) for name in short], rotation=20 if len(names) > 3 else 0)
        axes.set_xlim(-0.5, len(names) - 0.5)
        return
    low, high = (float(str(end)) for end in (domain.corners()[0], domain.corners()[-1]))
    if domain.on_log_scale:
        axes.set_xscale("log")
        axes.set_xlim(low / (high / low) ** _MARGIN, high * (high / low) ** _MARGIN)
    else:
        axes.set_xlim(low - _MARGIN * (high - low), high + _MARGIN * (high - low))


def _foot(axes: Any, at: Sequence[float]) -> None:
    """Mark at the foot where trials are that were not measured."""
    if at:
        low, high = axes.get_ylim()
        axes.set_ylim(low, high)
        axes.plot(at, [low] * len(at), "x", color=SHIFTED, label="not measured", clip_on=False)


def _draw(axes: Any, at: Sequence[float], trials: Sequence[Trial], record: SearchRecord) -> None:
    """Draw trials as points with their intervals."""
    for place, trial in zip(at, trials, strict=True):
        three = trial.outcome.value.numbers() if trial.outcome.value else None
        if three is None:
            continue
        low, value, high = three
        colour = CHOSEN if trial.number == record.best else TARGET
        axes.plot([place, place], [low, high], color=colour, linewidth=1.3, alpha=0.4)
        axes.plot([place], [value], color=colour, marker="o", markersize=5, linestyle="none")
