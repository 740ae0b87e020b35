"""How good answers are that stand in a text, or that there is none."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import SpanOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class AnswerScore(MeanOverRows):
    """A score between 0 and 1 of every answer, as SQuAD's official scripts compute it.

    1.1's where every question has an answer; where the format keeps those that have none, 2.0's: they are right with
    no answer, and wrong with any.
    """

    null_score_diff_threshold: float = 0.0
    """There is no answer where that scores more than this above the best text. Only where the format has
    `unanswerable: keep`."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"spans"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def answer_threshold(self) -> float:
        return self.null_score_diff_threshold

    def per_row(self, outcomes: SpanOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""
        import numpy as np

        silent = outcomes.silent(self.null_score_diff_threshold)
        return np.where(silent, outcomes.unanswerable, self.of_texts(outcomes)).astype(np.float64)

    @abstractmethod
    def of_texts(self, outcomes: SpanOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's own if its best text is the answer."""
