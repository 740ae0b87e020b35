"""Share of prompts that the model answers with the reference, word for word."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import BatchKind
from ftlib.data.cleaning import clean
from ftlib.evaluation.metrics.base import ShareOfRight
from ftlib.kinds.outcomes import CompletionOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool


class ExactMatch(ShareOfRight):
    """Exact match, between 0 and 1: both texts in Unicode NFC with white space folded, and else letter for letter."""

    kind: Literal["exact_match"] = "exact_match"
    ignore_case: bool = False
    """Compare texts without regard to case."""
    ignore_punctuation: bool = False
    """Take punctuation out of both texts first."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"completions"})
    reads_writing: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True

    def right(self, outcomes: CompletionOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""
        import numpy as np

        pairs = zip(outcomes.written(), outcomes.references, strict=True)
        return np.array([self._normal(ours) == self._normal(theirs) for ours, theirs in pairs], bool)

    def _normal(self, text: str) -> str:
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
        return clean(text)
