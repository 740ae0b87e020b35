"""Binary cross-entropy of every label."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class MultiLabel(Config):
    """Each label is a yes or no of its own: sigmoid cross-entropy, averaged over the labels and counted per row.

    So a row weighs the same however many labels there are, and the loss is the one that transformers computes for
    `problem_type: multi_label_classification`.
    """

    kind: Literal["multi_label"] = "multi_label"

    needs: ClassVar[BatchKind] = "multi_labeled"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the rows' mean binary cross-entropies in nats, summed, and the number of rows."""
        from torch.nn.functional import binary_cross_entropy_with_logits

        assert batch.targets is not None
        logits = model(**batch.inputs).logits
        total = binary_cross_entropy_with_logits(logits.float(), batch.targets, reduction="sum")
        return LossSum(total / batch.targets.shape[1], len(batch.targets))
