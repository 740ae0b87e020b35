"""How far what is asked and answered has drifted from what the version was made with, by effect size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ftlib.answer_log.profile import OTHERS, AnswerProfile
from ftlib.config import Config
from ftlib.data.profile import Profile
from ftlib.retraining.drift import Drift, DriftLimits, numbers_drift, values_drift
from ftlib.retraining.live_counts import LiveCounts
from ftlib.wording import counted

UNKNOWN_TOKENS = "unknown tokens"
"""The feature of tokens that the vocabulary does not know."""


class Reference(Config):
    """What a version's lineage says of the rows it was made with and of its own answers."""

    asked: Profile = Profile()
    """The rows it was trained on."""
    answered: AnswerProfile | None = None
    """Its answers on the report split; None for a version that was published without them."""

    @classmethod
    def of(cls, lineage: Mapping[str, Any], dataset: str, evaluation: str | None) -> Reference:
        """Read it from a lineage; what is not there stays empty."""
        asked = ((lineage.get("data") or {}).get(dataset) or {}).get("profile") or {}
        answered = (lineage.get("answers") or {}).get(evaluation)
        return cls(asked=Profile.model_validate(asked), answered=answered and AnswerProfile.model_validate(answered))


class Drifts(Config):
    """What was compared, and what could not be."""

    drifts: tuple[Drift, ...] = ()
    not_compared: tuple[str, ...] = ()
    """Sentences: what, and why not."""

    @property
    def large(self) -> tuple[Drift, ...]:
        """Return those beyond a limit."""
        return tuple(drift for drift in self.drifts if drift.large)


def drifts_of(reference: Reference, live: LiveCounts, limits: DriftLimits, version: str) -> Drifts:
    """Compare a window's answers with a version's reference, each feature where both sides have enough of it."""
    drifts: list[Drift] = []
    not_compared: list[str] = []
    for feature, before, now, of_values in _features(reference, live, version):
        if isinstance(before, str):
            not_compared.append(f"{feature}: {before}")
        elif short := _too_few(*_sizes(feature, reference, live, before, now), limits):
            not_compared.append(f"{feature}: {short}")
        elif of_values:
            drifts.append(values_drift(feature, _named(before), _named(now), limits))
        else:
            drifts.append(numbers_drift(feature, before, now, limits))
    return Drifts(drifts=tuple(drifts), not_compared=tuple(not_compared))


def _features(
    reference: Reference, live: LiveCounts, version: str
) -> Iterator[tuple[str, Mapping[Any, int] | str, Mapping[Any, int], bool]]:
    """Yield each feature with both sides' counts, or why there is nothing to compare with."""
    asked, answered = reference.asked, reference.answered
    lineage = f"the lineage of {version} has no profile of its rows"
    for name in sorted({*asked.measures, *live.asked.measures}):
        yield name, asked.measures.get(name) or lineage, live.asked.measures.get(name, {}), False
    if live.asked.lengths or not asked.measures:
        yield "length", asked.lengths or lineage, live.asked.lengths, False
    old = f"{version} was published without a profile of its answers; the next version has one"
    mine = live.answered
    if answered is None or answered.labels or mine.labels:
        yield "answer", (answered.labels if answered else {}) or old, mine.labels, True
    if answered is None or answered.confidence or mine.confidence:
        yield "confidence", (answered.confidence if answered else {}) or old, mine.confidence, False
    if mine.tokens and (answered is None or answered.tokens):
        tokens = {"known": answered.tokens - answered.unknown, "unknown": answered.unknown} if answered else old
        yield UNKNOWN_TOKENS, tokens, {"known": mine.tokens - mine.unknown, "unknown": mine.unknown}, True


def _sizes(
    feature: str, reference: Reference, live: LiveCounts, before: Mapping[Any, int], now: Mapping[Any, int]
) -> tuple[int, int]:
    """Return how many rows each side has: tokens of one row are no draws of their own."""
    if feature == UNKNOWN_TOKENS and reference.answered:
        return reference.answered.rows, live.answered.rows
    return sum(before.values()), sum(now.values())


def _too_few(before: int, now: int, limits: DriftLimits) -> str | None:
    for rows, whose in ((now, "in the window"), (before, "to compare with")):
        if rows < limits.rows:
            return f"{counted(rows, 'value')} {whose}, needed are {limits.rows:,}"
    return None


def _named(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(name): rows for name, rows in counts.items() if rows or name != OTHERS}
