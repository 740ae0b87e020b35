"""Words that an answer shares with the right one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from ftlib.evaluation.metrics.answer_scores import AnswerScore
from ftlib.kinds.outcomes import SpanOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class AnswerF1(AnswerScore):
    """SQuAD's F1, between 0 and 1: the mean over questions of the word overlap with the nearest right answer."""

    kind: Literal["answer_f1"] = "answer_f1"

    @override
    def of_texts(self, outcomes: SpanOutcomes) -> Float[np.ndarray, " rows"]:
        return outcomes.overlap
