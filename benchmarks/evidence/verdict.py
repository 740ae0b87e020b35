"""What the results of a row say of its claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.stats import t

from benchmarks.evidence.row import Comparison, Row
from benchmarks.evidence.trial import Trial

CONFIDENCE = 0.95

Word = Literal["shows", "contrary", "does not show", "not seen", "no difference", "too noisy", "too few seeds"]
"""Where the whole interval is below what was claimed, it is `not seen`. It `does not show` where, besides, the
interval's half-width is below the effect that was published and an independent implementation comes to the same."""


@dataclass(frozen=True)
class Verdict:
    """By how much one arm is better than another over seeds, in the metric's unit."""

    comparison: Comparison
    better: float
    than: float
    difference: float
    half_width: float | None
    """Of the interval of the paired differences (Student's t); None for a single seed."""
    seeds: int
    word: Word


def verdicts(row: Row, trials: Sequence[Trial]) -> list[Verdict]:
    """Compare the arms of a row over the seeds that did not fail; none where all failed."""
    good = [trial for trial in trials if trial.failed is None]
    return [verdict(one, good) for one in row.comparisons] if good else []


def verdict(comparison: Comparison, trials: Sequence[Trial]) -> Verdict:
    """Compare two arms, seed by seed, and the independent implementation of the better one, where the row has one."""
    found = _compared(comparison, comparison.better, trials)
    if found.word != "not seen" or comparison.again is None or comparison.effect is None:
        return found
    again = _compared(comparison, comparison.again, trials)
    agrees = again.word in ("not seen", "no difference")
    precise = found.half_width is not None and found.half_width < comparison.effect
    return replace(found, word="does not show") if agrees and precise else found


def _compared(comparison: Comparison, better: str, trials: Sequence[Trial]) -> Verdict:
    pairs = [(trial.arms[better], trial.arms[comparison.than]) for trial in trials]
    ours, theirs = ([arm[comparison.metric] for arm in arms] for arms in zip(*pairs, strict=True))
    sign = -1 if comparison.lower else 1
    differences = [sign * (mine - other) for mine, other in zip(ours, theirs, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    half = None
    if count > 1:
        spread = (sum((one - mean) ** 2 for one in differences) / (count - 1)) ** 0.5
        half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * spread / count**0.5
    word = word_for(mean, half, comparison.least or 0.0, count)
    return Verdict(comparison, sum(ours) / count, sum(theirs) / count, mean, half, count, word)


def word_for(difference: float, half: float | None, least: float, seeds: int) -> Word:
    """Return what may be said of a number that should be above `least`, by its interval's half-width."""
    if half is None or seeds < 3:
        return "too few seeds"
    if difference - half > least:
        return "shows"
    if difference + half < 0:
        return "contrary"
    if not difference and not half:
        return "no difference"
    return "not seen" if difference + half <= least else "too noisy"
