"""Scores of a whole corpus, by sacrebleu: sums over rows first, one score of the sums then."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.kinds.outcomes import CompletionOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class CorpusScore(MetricBase):
    """A metric of sacrebleu's, between 0 and 100, with one reference a row."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"completions"})
    reads_writing: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True
    package: ClassVar[str | None] = "sacrebleu"

    @abstractmethod
    def scorer(self) -> Any:
        """Return sacrebleu's own object."""

    @property
    @override
    def undefined_where(self) -> str:
        return "the references are empty"

    def compute(self, outcomes: CompletionOutcomes) -> float:
        """Return the metric over all rows."""
        if not any(map(str.strip, outcomes.references)):
            return float("nan")
        return float(self.scorer().corpus_score(outcomes.written(), [outcomes.references]).score)

    def resampled(
        self, outcomes: CompletionOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample, from the rows' counts: texts are read once."""
        import numpy as np

        scorer = self.scorer()
        # What sacrebleu's own bootstrap is made of; it has no public way to draws that are shared between models.
        counts = np.array(scorer._extract_corpus_statistics(outcomes.written(), [outcomes.references]))
        sums = np.stack([counts[draw].sum(axis=0) for draw in rows])
        scores = np.array([scorer._compute_score_from_stats(stats).score for stats in sums.tolist()], np.float64)
        some = np.array([bool(text.strip()) for text in outcomes.references])
        return np.where(some[rows].any(axis=1), scores, np.nan)

    @override
    def signature(self) -> str:
        scorer = self.scorer()
        scorer.num_refs = 1
        return str(scorer.get_signature())
