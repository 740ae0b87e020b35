"""Squared error of a number."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class Regression(Config):
    """The squared distance of the one logit from the row's score, in the score's own unit."""

    kind: Literal["regression"] = "regression"

    needs: ClassVar[BatchKind] = "scored"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed squared errors, and the number of rows."""
        from torch.nn.functional import mse_loss

        assert batch.targets is not None
        logits = model(**batch.inputs).logits
        # Not logits as they are: rows x 1 against rows would be spread to rows x rows, and train to the mean.
        return LossSum(mse_loss(logits[:, 0].float(), batch.targets, reduction="sum"), len(batch.targets))
