"""Cross-entropy over labels."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class Classification(Config):
    """Cross-entropy with optional label smoothing (Szegedy et al. 2016, arXiv 1512.00567)."""

    kind: Literal["classification"] = "classification"
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each target that is spread evenly over all labels; 0 is none."""

    needs: ClassVar[BatchKind] = "labeled"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed cross-entropy in nats, and the number of rows."""
        from torch.nn.functional import cross_entropy

        assert batch.targets is not None
        logits = model(**batch.inputs).logits
        total = cross_entropy(logits.float(), batch.targets, reduction="sum", label_smoothing=self.label_smoothing)
        return LossSum(total, len(batch.targets))
