"""How far rows have drifted, by effect size.

Never by p-values: over 200,000 rows a shift of a fiftieth of a standard deviation is "significant" (p = 3e-5) and
means nothing (PSI 0.0002). And only above a minimum of rows: with a thousand on each side and no shift at all, PSI
is 0.02.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate

from pydantic import Field

from ftlib.config import Config, Fraction
from ftlib.data.identity import NONE, identity
from ftlib.data.profile import OTHERS, Profile
from ftlib.wording import some

_BINS = 10
"""Into which lengths are gathered for PSI, with equal shares of the earlier rows."""


class DriftLimits(Config):
    """From where on a drift is large."""

    rows: int = Field(default=2000, gt=0)
    """With fewer on either side nothing is said."""
    psi: float = Field(default=0.2, gt=0.0)
    """Population stability index: by custom below 0.1 is little, above 0.2 much."""
    distance: Fraction = Field(default=0.1, gt=0.0)
    """The largest gap between two distributions of lengths, or the share of rows that have another label or slice."""


class Drift(Config):
    """How far one feature drifted."""

    feature: str
    """length, label, or slice:<name>; of images size, brightness and colour instead of a length; of live answers
    `answer`, `confidence` and `unknown tokens`."""
    psi: float
    distance: float
    """Kolmogorov-Smirnov D for lengths and measures; total variation distance for labels and slices."""
    vanished: tuple[str, ...] = ()
    """Values that there were and are no more."""
    appeared: tuple[str, ...] = ()
    large: bool
    """Whether it is beyond a limit, or a label vanished or appeared."""

    def __str__(self) -> str:
        """Say it in one line."""
        words = [f"{self.feature}: PSI {self.psi:.3f}, distance {self.distance:.3f}"]
        for change, values in (("vanished", self.vanished), ("appeared", self.appeared)):
            if values:
                words.append(f"{change}: {some(values)}")
        return "; ".join(words)


_USUAL = DriftLimits()


def drift(before: Profile, now: Profile, limits: DriftLimits = _USUAL) -> tuple[Drift, ...]:
    """Compare the rows a model was trained on with others; nothing if there are too few of either.

    Left out are features that only one profile has, since then the recipes differ, not the rows, and slices of more
    values than a profile counts by name.
    """
    if min(before.rows, now.rows) < limits.rows:
        return ()
    drifts = [numbers_drift("length", before.lengths, now.lengths, limits)] if before.lengths and now.lengths else []
    for name in sorted(before.measures.keys() & now.measures.keys()):
        drifts.append(numbers_drift(name, before.measures[name], now.measures[name], limits))
    if before.labels and now.labels:
        drifts.append(values_drift("label", before.labels, now.labels, limits))
    for name in sorted(before.slices.keys() & now.slices.keys()):
        if OTHERS not in before.slices[name] and OTHERS not in now.slices[name]:
            drifts.append(values_drift(f"slice:{name}", before.slices[name], now.slices[name], limits))
    return tuple(drifts)


def psi(before: Sequence[int], now: Sequence[int]) -> float:
    """Return the population stability index of two rows of counts, half a row added to each so that none is zero."""
    p, q = _shares(before), _shares(now)
    return sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) + 0.5 * len(counts)
    return [(count + 0.5) / total for count in counts]


def ks_distance(before: Mapping[int, int], now: Mapping[int, int]) -> float:
    """Return the largest gap between two cumulative distributions, given as counts by value."""
    rows_before, rows_now = sum(before.values()), sum(now.values())
    values = sorted(before.keys() | now.keys())
    gaps = (now.get(v, 0) / rows_now - before.get(v, 0) / rows_before for v in values)
    return max((abs(gap) for gap in accumulate(gaps)), default=0.0)


def numbers_drift(feature: str, before: Mapping[int, int], now: Mapping[int, int], limits: DriftLimits) -> Drift:
    """Compare two distributions of whole numbers, given as rows by value; both have some."""
    index, distance = psi(*_gathered(before, now)), ks_distance(before, now)
    return Drift(feature=feature, psi=index, distance=distance, large=index > limits.psi or distance > limits.distance)


def _gathered(before: Mapping[int, int], now: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """Join neighbouring bins until each holds a tenth of the earlier rows: rare lengths would make PSI noise."""
    enough = sum(before.values()) / _BINS
    earlier, later = [0], [0]
    for value in sorted(before.keys() | now.keys()):
        if earlier[-1] >= enough:
            earlier.append(0)
            later.append(0)
        earlier[-1] += before.get(value, 0)
        later[-1] += now.get(value, 0)
    if len(earlier) > 1 and earlier[-1] < enough / 2:  # the end of the tail
        earlier[-2:] = [sum(earlier[-2:])]
        later[-2:] = [sum(later[-2:])]
    return earlier, later


def _by_identity(counts: Mapping[str, int]) -> Counter[str]:
    """Add up the rows of values that are one: an earlier profile may know them under several spellings."""
    counter: Counter[str] = Counter()
    for name, rows in counts.items():
        counter[identity(name) or NONE] += rows
    return counter


def values_drift(feature: str, before: Mapping[str, int], now: Mapping[str, int], limits: DriftLimits) -> Drift:
    """Compare two distributions of values, given as rows by value; both have some. Only a `label` may not vanish."""
    before, now = _by_identity(before), _by_identity(now)
    names = sorted(before.keys() | now.keys())
    index = psi([before.get(name, 0) for name in names], [now.get(name, 0) for name in names])
    rows = sum(before.values()), sum(now.values())
    distance = sum(abs(now.get(name, 0) / rows[1] - before.get(name, 0) / rows[0]) for name in names) / 2
    vanished, appeared = (tuple(sorted(these.keys() - other.keys())) for these, other in ((before, now), (now, before)))
    changed = feature == "label" and bool(vanished or appeared)
    return Drift(
        feature=feature,
        psi=index,
        distance=distance,
        vanished=vanished,
        appeared=appeared,
        large=changed or index > limits.psi or distance > limits.distance,
    )
