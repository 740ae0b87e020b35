"""What rows look like as counts: text lengths, labels, slices. Small enough to be kept with every model."""

from __future__ import annotations

import math
import operator
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from pydantic import Field

from ftlib.config import Config

_BINS_PER_DOUBLING = 8
SLICE_VALUES = 200
"""Values of a slice that are counted by name; the rest together."""
OTHERS = "(others)"


class Profile(Config):
    """Counts over rows. Two profiles are compared with `ftlib.retraining.drift.drift`."""

    rows: int = 0
    lengths: dict[int, int] = {}
    """Rows by bin of their text's length in characters, eight bins for each doubling; see `length_bin`."""
    labels: dict[str, int] = {}
    slices: dict[str, dict[str, int]] = {}
    """For each slice column, rows by value."""
    measures: dict[str, dict[int, int]] = Field(default={}, exclude_if=operator.not_)
    """For rows that are no texts, rows by bin of what their format measures instead of a length."""


def length_bin(length: int) -> int:
    """Return a length's bin: 0 for no text, then bins that are 9 % wide."""
    return 1 + int(_BINS_PER_DOUBLING * math.log2(length)) if length > 0 else 0


class Profiler:
    """Counts rows as they come, in memory that does not grow with them."""

    def __init__(self, slices: Sequence[str] = (), most: int = SLICE_VALUES) -> None:
        """Take the slices' names, and how many of one's values are counted by name."""
        self._most = most
        self._rows = 0
        self._lengths: Counter[int] = Counter()
        self._measures: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._labels: Counter[str] = Counter()
        self._slices: dict[str, Counter[str]] = {name: Counter() for name in slices}

    def add(
        self,
        text: str,
        labels: Iterable[str] = (),
        slices: Sequence[str] = (),
        measures: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Count a row; `slices` are its values in the order of the names, `measures` stand for its text's length."""
        self._rows += 1
        if not measures:
            self._lengths[len(text)] += 1
        for name, measure in measures.items():
            self._measures[name][measure] += 1
        self._labels.update(labels)
        for counts, value in zip(self._slices.values(), slices, strict=True):
            counts[value if value in counts or len(counts) < self._most else OTHERS] += 1

    def merge(self, other: Profiler) -> None:
        """Count the rows that another one has counted behind these, all its slices' values by name."""
        self._rows += other._rows
        self._lengths.update(other._lengths)
        self._labels.update(other._labels)
        for name, measures in other._measures.items():
            self._measures[name].update(measures)
        for name, values in other._slices.items():
            counts = self._slices[name]
            for value, rows in values.items():
                counts[value if value in counts or len(counts) < self._most else OTHERS] += rows

    def profile(self) -> Profile:
        """Return what was counted."""
        bins: Counter[int] = Counter()
        for length, rows in self._lengths.items():
            bins[length_bin(length)] += rows
        return Profile(
            rows=self._rows,
            lengths=dict(sorted(bins.items())),
            labels=dict(sorted(self._labels.items())),
            slices={name: dict(sorted(counts.items())) for name, counts in self._slices.items()},
            measures={name: dict(sorted(counts.items())) for name, counts in sorted(self._measures.items())},
        )


def profile(rows: Iterable[tuple[str, str | None, Sequence[str]]], slices: Sequence[str] = ()) -> Profile:
    """Return the profile of rows given as (text, label, values in the order of `slices`)."""
    profiler = Profiler(slices)
    for text, label, values in rows:
        profiler.add(text, () if label is None else (label,), values)
    return profiler.profile()
