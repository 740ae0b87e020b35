"""RL's Razor (Shenfeld, Pari & Agrawal 2025, arXiv 2509.04259) on digits: what is forgotten follows KL to the start.

A small net learns letters and, from a few rows, whether digits are even: any even label is right for an even digit. It is
then tuned on the other digits alone, by labels of three kinds and at several rates, through `reglage run`, whose alpha
line gives the points between; and on policy, by REINFORCE with reward 1 for a right parity, which no recipe says of a
classifier. Each is a point: KL(start || it) on digits that none of them saw, and the accuracy on letters that it lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evidence.curve import coefficients, r2
from benchmarks.evidence.digits import LABELS, digits, files, letters, sides, write_model, write_rows
from benchmarks.evidence.points import Measured, Point
from benchmarks.evidence.row import Fit
from benchmarks.evidence.tables import answers, run_recipe

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CHOICES = ("uniform", "fixed", "oracle")
"""Labels of a digit: drawn from the five right ones; 0 or 1; drawn as the start would among the right ones, which is
the supervised policy nearest to it."""
_FEW, _TUNED = 150, 1000


@dataclass(frozen=True)
class Answers:
    """What one model says of the rows that are kept back, as probabilities."""

    digits: Float[np.ndarray, "rows 10"]
    letters: Float[np.ndarray, "rows 10"]


@dataclass(frozen=True)
class Rows:
    """One seed's rows, and where they lie."""

    work: Path
    images: Float[np.ndarray, "rows 8 8"]
    labels: Int[np.ndarray, " rows"]
    few: Int[np.ndarray, " rows"]
    tuned: Int[np.ndarray, " rows"]
    kept: Int[np.ndarray, " rows"]
    letters: Path
    letter_labels: Int[np.ndarray, " rows"]
    """Of the letters that are kept back."""

    def write(self, name: str, at: Int[np.ndarray, " some"], labels: Int[np.ndarray, " some"]) -> Path:
        """Write digits with these labels to train on, and those that are kept back as validation rows."""
        images = self.images[np.concatenate([at, self.kept])]
        told = [LABELS[one] for one in (*labels, *self.labels[self.kept])]
        return write_rows(self.work / name, images, told, ["train"] * len(at) + ["validation"] * len(self.kept))


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Return all points of a seed, and of each kind of tuning the one that its own half of the digits chose."""
    rows = _rows(seed, work / "razor" / f"seed-{seed}")
    start_folder, start = _start(rows, seed, work, settings)
    found: dict[str, list[tuple[str, str, Answers]]] = {}
    for choice in CHOICES:
        data = rows.write(choice, rows.tuned, _labels(choice, rows, start_folder, seed))
        for rate in settings["rates"]:
            for name, one in _tuned(rows, data, start_folder, rate, seed, work, settings):
                series = "alpha points" if name.startswith("alpha=") else f"SFT, {choice} labels"
                found.setdefault(choice, []).append((series, f"{choice}, rate {rate:g}, {name}", one))
    for rate in settings["policy_rates"]:
        for step, one in _policy(rows, start_folder, rate, seed, settings):
            found.setdefault("policy", []).append(("on policy", f"rate {rate:g}, step {step}", one))
    lost = _right(start.letters, rows.letter_labels)
    points = {
        way: [
            Point(series=series, x=_kl(*pair), y=lost - _right(one.letters, rows.letter_labels), what=what)
            for some in found.values()
            for series, what, one in some
            for pair in [(start.digits, one.digits) if way == "forward" else (one.digits, start.digits)]
        ]
        for way in ("forward", "reverse")
    }
    arms = {way: {"razor/r2": _r2(some)} for way, some in points.items()}
    for name, some in found.items():
        ends = [one for series, _, one in some if series != "alpha points"]
        arms[name] = _chosen(rows, start, ends)
    arms["start"] = _told(rows, start, start)
    return Measured(arms={name: {"razor/r2": 0.0, **told} for name, told in arms.items()}, points=tuple(points["forward"]))


def _rows(seed: int, work: Path) -> Rows:
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(images))
    drawn, told = letters(130, seed)
    split = sides(len(drawn), (0.6, 0.4, 0.0), seed)
    folder = write_rows(work / "letters", drawn, [LABELS[one] for one in told], split)
    kept = told[[side == "validation" for side in split]]
    few, tuned, rest = order[:_FEW], order[_FEW : _FEW + _TUNED], order[_FEW + _TUNED :]
    return Rows(work, images, labels, few, tuned, rest, folder, kept)


def _start(rows: Rows, seed: int, work: Path, settings: Mapping[str, Any]) -> tuple[Path, Answers]:
    """Train the net on letters and a few digits; return its folder and its answers."""
    drawn = np.random.default_rng(seed).integers(5, size=len(rows.few))
    few = rows.write("few", rows.few, rows.labels[rows.few] % 2 + 2 * drawn)
    recipe = {
        "name": f"razor-start-{seed}",
        "model": {"path": str(write_model(rows.work / "random", seed, **settings.get("model", {})))},
        "datasets": {"letters": files(rows.letters), "digits": files(few)},
        "phases": [
            {
                "name": "both",
                "mixture": {"letters": 4, "digits": 1},
                "objective": {"kind": "classification"},
                "tuning": {"kind": "full"},
                "optimizer": settings["start"],
            }
        ],
        **_asked("letters/log_loss"),
    }
    record = run_recipe(recipe, rows.work / "start.yaml", seed, work)
    from benchmarks.evidence.tables import published

    return published(record, work), _answers(record, work)["both"]


def _asked(by: str) -> dict[str, object]:
    metrics = [{"kind": "accuracy"}, {"kind": "log_loss"}]
    return {
        "evaluations": {name: {"dataset": name, "metrics": metrics, "resamples": 100} for name in ("letters", "digits")},
        "select": {"by": by},
        "publish": {"name": "razor"},
        "compute": {"workers": 0, "threads": 1},
    }
