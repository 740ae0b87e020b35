"""The loss of detectors that match queries to boxes."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class Detection(Config):
    """Queries are matched to boxes; label, place and overlap are learnt (Carion et al. 2020, arXiv 2005.12872).

    Each image's loss is divided by its own boxes and the mean is over images, so that neither the split of a batch nor
    workers change it; stock transformers divides by the boxes of a batch.
    """

    kind: Literal["detection"] = "detection"

    needs: ClassVar[BatchKind] = "boxed_images"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over images, and their number."""
        from ftlib.kinds.box_loss import box_losses, check_has_nothing

        output = model(**batch.inputs)
        plain = getattr(model, "module", model)  # DDP's replica
        check_has_nothing(getattr(plain, "get_base_model", lambda: plain)().config, output.logits)
        return LossSum(box_losses(output, batch).sum(), len(batch))
