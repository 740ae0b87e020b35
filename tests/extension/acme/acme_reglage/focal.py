"""The focal loss."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class Focal(Config):
    """Cross-entropy in which rows that are right already weigh less (Lin et al. 2017, arXiv 1708.02002)."""

    kind: Literal["acme_focal"] = "acme_focal"
    gamma: float = Field(default=2.0, ge=0.0)
    """A row weighs (1 - p) ** gamma; 0 is cross-entropy."""

    needs: ClassVar[BatchKind] = "labeled"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed loss in nats, and the number of rows."""
        from torch.nn.functional import cross_entropy

        assert batch.targets is not None
        logits = model(**batch.inputs).logits
        nll = cross_entropy(logits.float(), batch.targets, reduction="none")
        return LossSum(((1 - (-nll).exp()) ** self.gamma * nll).sum(), len(batch.targets))
