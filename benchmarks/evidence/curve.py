"""How well one polynomial explains the points of a row, over seeds; and its drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import t

from benchmarks.evidence.points import Point
from benchmarks.evidence.row import Fit, Row
from benchmarks.evidence.trial import Trial
from benchmarks.evidence.verdict import CONFIDENCE, Word, word_for

if TYPE_CHECKING:
    from jaxtyping import Float

IMAGES = Path(__file__).parents[2] / "docs" / "images"


@dataclass(frozen=True)
class Explained:
    """How much of one series' variance the curve explains."""

    series: str
    how: str
    """How the curve comes to them."""
    points: int
    r2: float
    """Mean over seeds, each with its own start and so its own curve."""
    half_width: float | None
    seeds: int
    word: Word


def explained(fit: Fit, trials: Sequence[Trial]) -> list[Explained]:
    """Return the R2 of the fitted series together, of each other one against the same curve, and of all by one."""
    good = [trial for trial in trials if trial.failed is None and trial.points]
    if not good:
        return []
    others = dict.fromkeys(p.series for trial in good for p in trial.points if p.series not in fit.of)
    found = [_one(fit, good, fit.of, "the curve is fitted to them")]
    found += [_one(fit, good, (name,), "against that curve") for name in others]
    if others:
        together = (*fit.of, *others)
        found.append(_one(fit.model_copy(update={"of": together}), good, together, "one curve is fitted to all"))
    for name in fit.instead:
        turned = [trial.model_copy(update={"points": tuple(_by(p, name) for p in trial.points)}) for trial in good]
        found.append(_one(fit, turned, fit.of, f"fitted along {name} instead"))
    return found


def _by(point: Point, name: str) -> Point:
    return point.model_copy(update={"x": point.beside[name]})


def _one(fit: Fit, trials: Sequence[Trial], series: tuple[str, ...], how: str) -> Explained:
    values = [r2(coefficients(fit, trial.points), some) for trial in trials if (some := _of(trial.points, series))]
    count, mean = len(values), float(np.mean(values))
    half = (
        float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * float(np.std(values, ddof=1)) / count**0.5
        if count > 1
        else None
    )
    points = sum(len(_of(trial.points, series)) for trial in trials)
    return Explained(", ".join(series), how, points, mean, half, count, word_for(mean, half, fit.least, count))


def _of(points: Sequence[Point], series: Sequence[str]) -> list[Point]:
    return [point for point in points if point.series in series]


def coefficients(fit: Fit, points: Sequence[Point]) -> Float[np.ndarray, " degree_plus_one"]:
    """Return the least-squares polynomial of one seed's fitted series, the highest power first."""
    some = _of(points, fit.of)
    return np.polyfit([point.x for point in some], [point.y for point in some], fit.degree)


def r2(curve: Float[np.ndarray, " degree_plus_one"], points: Sequence[Point]) -> float:
    """Return the share of the points' variance that a curve explains; below 0 where their mean explains more."""
    y = np.array([point.y for point in points])
    rest = y - np.polyval(curve, [point.x for point in points])
    return float(1 - (rest**2).sum() / ((y - y.mean()) ** 2).sum())


def picture(row: Row) -> Path:
    """Return where a row's drawing lies."""
    return IMAGES / f"evidence-{row.name}.png"


def draw(row: Row, trials: Sequence[Trial]) -> None:
    """Draw the points and the curve of each seed beside each other; the same results give the same bytes."""
    from ftlib.report.figures import PALETTE, panels, saved

    good = [trial for trial in trials if trial.failed is None and trial.points and not trial.larger]
    if row.fit is None or not good:
        return
    names = list(dict.fromkeys(point.series for trial in good for point in trial.points))
    with panels(len(good)) as (figure, axes):
        for trial, one in zip(good, axes, strict=True):
            for name, colour, marker in zip(names, PALETTE, "osx^v", strict=False):
                some = _of(trial.points, (name,))
                one.plot(
                    [p.x for p in some],
                    [p.y for p in some],
                    marker,
                    color=colour,
                    markersize=3.5,
                    alpha=0.75,
                    label=name,
                )
            along = np.linspace(0, max(point.x for point in trial.points), 100)
            one.plot(along, np.polyval(coefficients(row.fit, trial.points), along), color="#1f2430", linewidth=1.2)
            one.set_title(f"seed {trial.seed}", loc="left")
            one.set_xlabel(row.fit.x)
        axes[0].set_ylabel(row.fit.y)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), frameon=False)
        with TemporaryDirectory() as folder:
            saved(figure, Path(folder), "figure", row.claim)
            picture(row).write_bytes((Path(folder) / "figure.png").read_bytes())
