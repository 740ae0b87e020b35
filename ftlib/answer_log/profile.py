"""What a model's answers look like as counts: kept with a version when it is published, and counted of a log."""

from __future__ import annotations

from pydantic import Field

from ftlib.config import Config

OTHERS = "(others)"
"""Labels that are not counted by name."""


class AnswerProfile(Config):
    """Counts over answers, small enough to be kept with every version."""

    rows: int = Field(default=0, ge=0)
    right: int | None = None
    """Of these, how many were right; None where that is not known of all."""
    labels: dict[str, int] = {}
    """Answers by label."""
    confidence: dict[int, int] = {}
    """Answers by the probability of their label, in whole hundredths, rounded down."""
    tokens: int = 0
    """Tokens of what was asked, special tokens left out."""
    unknown: int = 0
    """Of these, how many stand for what the vocabulary does not know."""


def confidence_bin(probability: float) -> int:
    """Return a probability's bin, 0 to 100."""
    return int(100.0 * probability)
