"""F1 averaged over labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from ftlib.config import BatchKind, Config
from ftlib.outcomes import Outcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class MacroF1(Config):
    """The unweighted mean of every label's F1, over the labels that occur; a label never predicted counts 0.

    A label occurs if some row has it. scikit-learn's default also averages over labels that are only predicted,
    where one stray prediction of an absent label costs a whole term: under shift, models could not be compared.
    """

    kind: Literal["macro_f1"] = "macro_f1"

    needs: ClassVar[BatchKind] = "labeled"
    higher_is_better: ClassVar[bool] = True

    def compute(self, outcomes: Outcomes) -> float:
        """Return the metric over all rows."""
        import numpy as np
        from sklearn.metrics import f1_score

        occurring = np.unique(outcomes.gold)
        zero = cast(Any, 0.0)  # scikit-learn's own annotation forgets that numbers are allowed
        return float(f1_score(outcomes.gold, outcomes.predicted, labels=occurring, average="macro", zero_division=zero))

    def resampled(self, outcomes: Outcomes, rows: Int[np.ndarray, "resamples rows"]) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample, from counts: F1 = 2 hits / (golds + predictions)."""
        import numpy as np

        def count(labels: Int[np.ndarray, "resamples rows"]) -> Int[np.ndarray, "resamples labels"]:
            width = len(outcomes.labels) + 1
            flat = labels + width * np.arange(len(labels))[:, None]
            return np.bincount(flat.ravel(), minlength=width * len(labels)).reshape(-1, width)[:, :-1]

        nothing = len(outcomes.labels)
        right = np.where(outcomes.gold == outcomes.predicted, outcomes.gold, nothing)
        hits, golds, predictions = count(right[rows]), count(outcomes.gold[rows]), count(outcomes.predicted[rows])
        f1 = 2 * hits / np.maximum(golds + predictions, 1)
        occurs = golds > 0
        return (f1 * occurs).sum(axis=1) / occurs.sum(axis=1)
