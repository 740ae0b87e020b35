"""Whether two answers are the same text, as SQuAD's official script compares them (Rajpurkar et al. 2016)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalized(text: str) -> str:
    """Return the text in lower case, without ASCII punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def is_right(predicted: str, answers: Sequence[str]) -> bool:
    """Return whether a text is one of the answers, once normalised."""
    return normalized(predicted) in map(normalized, answers)


def best_overlap(predicted: str, answers: Sequence[str]) -> float:
    """Return the best F1 of words in common with any of the answers; 0 without a word in common."""
    return max((_overlap(normalized(predicted).split(), normalized(answer).split()) for answer in answers), default=0.0)


def _overlap(predicted: Sequence[str], answer: Sequence[str]) -> float:
    shared = (Counter(predicted) & Counter(answer)).total()
    return 2 * shared / (len(predicted) + len(answer)) if shared else 0.0
