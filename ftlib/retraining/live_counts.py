"""What a window of answers is counted to: once through, in memory that does not grow with the answers."""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from ftlib.answer_log.profile import OTHERS, AnswerProfile, confidence_bin
from ftlib.answer_log.reader import Answer
from ftlib.config import Config
from ftlib.data.identity import identity
from ftlib.data.profile import Profile, length_bin

DAY = 86_400.0
MEASURED = 20_000
"""Labelled answers of a window whose labels are kept for metrics that are no share of right ones."""
_LABELS = 2000
"""Labels that are counted by name where the version does not say which it has."""


class LiveCounts(Config):
    """The last window's answers as counts."""

    asked: Profile
    """What was asked: lengths, or what a format measures instead."""
    answered: AnswerProfile
    """What was answered."""
    with_label: int = 0
    """Answers that are one label."""
    with_probability: int = 0
    """Answers with a probability."""


@dataclass
class Judged:
    """What is known of one window's answers, counted from the promotion on."""

    answers: int = 0
    labelled: int = 0
    right: int = 0
    thumbs: int = 0
    good: int = 0
    pairs: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(label, what was answered) of the first `MEASURED` answers, in the order of their requests' digests: a draw
    that does not depend on what they say."""


class Counted:
    """Counts answers as they come."""

    def __init__(self, labels: Iterable[str], last: float, begun: float | None, seconds: float) -> None:
        """Take the version's labels, when the last window began, when the version was put in place, how long one is.

        Times are seconds, since 1970. Answers from before it was put in place say nothing of its quality in place.
        """
        self._names = {identity(label): label for label in labels}
        self._last, self._begun, self._seconds = last, begun, seconds
        self._rows = self._tokens = self._unknown = 0
        self._lengths, self._labels, self._confidence = Counter[int](), Counter[str](), Counter[int]()
        self._measures = defaultdict[str, Counter[int]](Counter)
        self.windows = defaultdict[int, Judged](Judged)
        """By their numbers, from 1."""
        self.strange_labels = 0
        """Right labels that the version does not have: no answer is judged by one."""
        self.seen = array("d", (math.inf, -math.inf))
        """When the first and the last answer was given."""

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.seen[0], self.seen[1] = min(self.seen[0], answer.at), max(self.seen[1], answer.at)
        if answer.at >= self._last:
            self._profile(answer)
        if self._begun is not None and answer.at >= self._begun:
            self._judge(answer, self.windows[1 + int((answer.at - self._begun) / self._seconds)])

    def counts(self) -> LiveCounts:
        """Return what was counted of the last window."""
        return LiveCounts(
            asked=Profile(
                rows=self._rows,
                lengths=dict(sorted(self._lengths.items())),
                measures={name: dict(sorted(counts.items())) for name, counts in sorted(self._measures.items())},
            ),
            answered=AnswerProfile(
                rows=self._rows,
                labels=dict(sorted(self._labels.items())),
                confidence=dict(sorted(self._confidence.items())),
                tokens=self._tokens,
                unknown=self._unknown,
            ),
            with_label=self._labels.total(),
            with_probability=self._confidence.total(),
        )

    def _profile(self, answer: Answer) -> None:
        self._rows += 1
        measures = dict(answer.measures)
        self._tokens += measures.pop("tokens", 0)
        self._unknown += measures.pop("unknown", 0)
        if answer.length is not None:
            self._lengths[length_bin(answer.length)] += 1
        for name, value in measures.items():
            self._measures[name][value] += 1
        if answer.label is not None:
            self._labels[self._called(answer.label)] += 1
        if answer.probability is not None:
            self._confidence[confidence_bin(answer.probability)] += 1

    def _called(self, label: str) -> str:
        if (known := self._names.get(identity(label))) is not None:
            return known
        return label if not self._names and (label in self._labels or len(self._labels) < _LABELS) else OTHERS

    def _judge(self, answer: Answer, window: Judged) -> None:
        window.answers += 1
        if answer.thumb is not None:
            window.thumbs += 1
            window.good += answer.thumb
        if answer.label is not None and answer.right_label is not None:
            if self._names and identity(answer.right_label) not in self._names:
                self.strange_labels += 1
                return
            window.labelled += 1
            window.right += identity(answer.label) == identity(answer.right_label)
            if len(window.pairs) < MEASURED:
                window.pairs.append((self._called(answer.right_label), self._called(answer.label)))
