"""ROUGE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.kinds.outcomes import CompletionOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int


class Rouge(MetricBase):
    """Mean F of n-grams or of the longest common subsequence (Lin 2004), by Google's rouge-score; between 0 and 1.

    Its words are runs of a to z and 0 to 9, in lower case: a text in another script has none, and scores 0. Undefined
    where no reference has what is counted.
    """

    kind: Literal["rouge"] = "rouge"
    variant: Literal["rouge1", "rouge2", "rougeL"] = "rougeL"
    """What is counted; results and rules call the metric by it."""
    use_stemmer: bool = False
    """Compare words by their stems (Porter's, for English)."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"completions"})
    reads_writing: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True
    package: ClassVar[str | None] = "rouge_score"

    @property
    @override
    def name(self) -> str:
        return self.variant

    @property
    @override
    def undefined_where(self) -> str:
        return f"no reference has {'two words' if self.variant == 'rouge2' else 'a word'} of a to z and 0 to 9"

    def resampled(
        self, outcomes: CompletionOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        scores, countable = self._scores(outcomes)
        return np.where(countable[rows].any(axis=1), scores[rows].mean(axis=1), np.nan)

    @override
    def signature(self) -> str:
        from importlib.metadata import version

        return f"{self.variant}|f|stemmer:{'yes' if self.use_stemmer else 'no'}|rouge-score:{version('rouge-score')}"

    def _scores(self, outcomes: CompletionOutcomes) -> tuple[Float[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
        """Return every row's score, and whether its reference has anything to find: it would find itself then."""
        import numpy as np
        from rouge_score.rouge_scorer import RougeScorer

        scorer = cast(Any, RougeScorer([self.variant], use_stemmer=self.use_stemmer))
        pairs = zip(outcomes.references, outcomes.written(), strict=True)
        scores = [scorer.score(gold, ours)[self.variant].fmeasure for gold, ours in pairs]
        own = [scorer.score(gold, gold)[self.variant].fmeasure > 0.0 for gold in outcomes.references]
        return np.array(scores, np.float64), np.array(own, bool)
