"""Share of questions whose answer is right."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from ftlib.evaluation.metrics.answer_scores import AnswerScore
from ftlib.kinds.outcomes import SpanOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float


class AnswerExactMatch(AnswerScore):
    """SQuAD's exact match, between 0 and 1: case, punctuation, articles and white space aside."""

    kind: Literal["answer_exact_match"] = "answer_exact_match"

    @override
    def of_texts(self, outcomes: SpanOutcomes) -> Float[np.ndarray, " rows"]:
        import numpy as np

        return outcomes.right.astype(np.float64)

    def right(self, outcomes: SpanOutcomes) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""
        return self.per_row(outcomes) > 0
