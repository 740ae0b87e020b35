"""Whether an answer has a form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from ftlib.config import NamePattern
from ftlib.training.rewards.base import Answered, Bounded, RewardModel


class Regex(Bounded):
    """1 for an answer in which the pattern is found, else 0."""

    kind: Literal["regex"] = "regex"
    pattern: NamePattern
    """A regular expression of Python's `re`; `.` is no new line unless it begins with `(?s)`."""
    whole: bool = False
    """The whole answer must be of this form, not a part of it."""

    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return 1 or 0 for each."""
        del models
        pattern = re.compile(self.pattern)
        matches = pattern.fullmatch if self.whole else pattern.search
        return [float(matches(one.answer) is not None) for one in answered]
