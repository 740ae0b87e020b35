"""Cross-entropy over the tags of words."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import UNTAUGHT, Batch, LossSum


class TokenClassification(Config):
    """Cross-entropy of every word's tag, over words and not over rows: a long sentence weighs more than a short one."""

    kind: Literal["token_classification"] = "token_classification"

    needs: ClassVar[BatchKind] = "tagged"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed cross-entropy in nats, and the number of tagged tokens."""
        from torch.nn.functional import cross_entropy

        assert batch.targets is not None
        logits = model(**batch.inputs).logits[:, : batch.targets.shape[1]]  # widths may be rounded up
        targets = batch.targets.flatten()
        total = cross_entropy(logits.float().flatten(0, 1), targets, reduction="sum", ignore_index=UNTAUGHT)
        return LossSum(total, (targets != UNTAUGHT).sum())
