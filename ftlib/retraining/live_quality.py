"""How good answers were, window by window, against what was measured at publishing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ftlib.answer_log.profile import AnswerProfile
from ftlib.config import Config
from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.retraining.live_bounds import level_of, lower_bound, measured_at_least, upper_bound
from ftlib.retraining.live_counts import Judged
from ftlib.retraining.live_policy import OfLabels, OfThumbs
from ftlib.wording import counted

ACCURACY = "accuracy"
OF_DECISIONS = frozenset(
    f"{average}{score}" for average in ("", "macro_", "weighted_", "micro_") for score in ("f1", "precision", "recall")
) | {ACCURACY, "mcc"}
"""Metrics that read nothing but right and answered labels: a log has no probabilities of the labels not answered."""
_RESAMPLES = 1000


class Standard(Config):
    """What answers have to reach."""

    what: str
    """accuracy, or the share of good answers."""
    published: float | None = None
    """What was measured at publishing."""
    least: float | None = None
    """The share below which answers are worse; None where nothing is known to hold them against."""
    level: float
    """The probability of a false alarm that is left for the live side."""
    how: str
    """How `least` follows, in a sentence."""


class WindowQuality(Config):
    """The quality of the answers of one window."""

    number: int
    """From 1, the window that begins when the version was put in place."""
    since: str
    until: str
    """UTC, ISO 8601."""
    answers: int
    judged: int
    """Answers of which a label, or a thumb, is known."""
    good: int
    """Of these, how many were right, or found good."""
    share: float | None
    low: float
    high: float
    """Time-uniform bounds of the share, each at the window's part of the false alarms."""
    too_few: bool
    worse: bool
    """The upper bound lies below what is asked for."""
    metrics: dict[str, Estimate] = {}
    """Others of the recipe's that read labels alone, with 95 % bootstrap intervals."""


def standard(rule: OfLabels | OfThumbs, evaluation: str | None, metrics: Mapping[str, float | None],
             answered: AnswerProfile | None) -> Standard:  # fmt: skip
    """Return what a rule asks of a version whose measured metrics and answers these are."""
    if isinstance(rule, OfThumbs):
        how = f"at least {rule.at_least:.4g} of the answers are to be found good"
        return Standard(what="share found good", least=rule.at_least, level=rule.false_alarms, how=how)
    level = rule.false_alarms / 2
    published = metrics.get(f"{evaluation}/{ACCURACY}")
    if published is None:
        missing = f"no accuracy of {evaluation or 'an evaluation'} was measured at publishing"
        return Standard(what=ACCURACY, level=level, how=f"{missing}, so there is nothing to hold labels against")
    if answered is None or answered.right is None:
        how = f"{published:.4f} was measured at publishing, on a number of rows that the version does not tell"
        least = published - rule.margin
    else:
        least = measured_at_least(answered.right, answered.rows, level) - rule.margin
        how = f"{published:.4f} of {counted(answered.rows, 'row')} were right at publishing: {least + rule.margin:.4f} "
        how += f"is its lower bound at {level:g}"
    how += f"; less the margin of {rule.margin:g} that is {least:.4f}"
    return Standard(what=ACCURACY, published=published, least=max(0.0, least), level=level, how=how)


def quality(
    windows: Mapping[int, Judged],
    numbers: Sequence[int],
    rule: OfLabels | OfThumbs,
    asked: Standard,
    begun: float,
    seconds: float,
    metrics: Sequence[Metric],
) -> tuple[WindowQuality, ...]:
    """Return the quality of each of some windows, the oldest first."""
    return tuple(
        _of_window(number, windows.get(number, Judged()), rule, asked, begun + seconds * (number - 1), seconds, metrics)
        for number in numbers
    )


def _of_window(
    number: int,
    window: Judged,
    rule: OfLabels | OfThumbs,
    asked: Standard,
    since: float,
    seconds: float,
    metrics: Sequence[Metric],
) -> WindowQuality:
    of_thumbs = isinstance(rule, OfThumbs)
    judged, good = (window.thumbs, window.good) if of_thumbs else (window.labelled, window.right)
    level = level_of(number, asked.level)
    high = upper_bound(good, judged, level)
    too_few = judged < rule.min_labels
    return WindowQuality(
        number=number,
        since=_said(since),
        until=_said(since + seconds),
        answers=window.answers,
        judged=judged,
        good=good,
        share=good / judged if judged else None,
        low=lower_bound(good, judged, level),
        high=high,
        too_few=too_few,
        worse=not too_few and asked.least is not None and high < asked.least,
        metrics={} if too_few or of_thumbs else _others(window.pairs, metrics),
    )


def _others(pairs: Sequence[tuple[str, str]], metrics: Sequence[Metric]) -> dict[str, Estimate]:
    """Return the metrics of (right, answered) labels with their bootstrap intervals."""
    import numpy as np

    wanted = [metric for metric in metrics if metric.kind in OF_DECISIONS and metric.kind != ACCURACY]
    if not wanted:
        return {}
    labels = tuple(sorted({label for pair in pairs for label in pair}))
    wanted = [metric for metric in wanted if getattr(metric, "label", None) in (None, *labels)]
    places = {label: i for i, label in enumerate(labels)}
    nothing = np.zeros(len(pairs))
    table = LabelOutcomes(
        row_ids=tuple(map(str, range(len(pairs)))),
        nll=nothing,
        targets=nothing.astype(np.int64),
        labels=labels,
        gold=np.array([places[right] for right, _ in pairs], np.int64),
        predicted=np.array([places[answered] for _, answered in pairs], np.int64),
        probabilities=np.zeros((len(pairs), 0)),
    )
    resampling: Any = Resampling(resamples=_RESAMPLES, confidence=0.95, seed=0)
    return estimates(table, wanted, resampling)


def _said(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
