"""Two answers of one model under two draws of dropout are to agree."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class RDrop(Config):
    """R-Drop (Liang et al. 2021, arXiv 2106.14448): the mean cross-entropy of both answers, and how far they differ.

    That is alpha times the mean of KL(p || q) and KL(q || p), as in the authors' code. Both answers come of one pass
    over each row twice, so a batch takes twice the memory. With dropout 0 they are equal, and this is cross-entropy.
    """

    kind: Literal["r_drop"] = "r_drop"
    alpha: float = Field(default=1.0, ge=0.0)
    """How much the two answers' difference weighs; the paper takes 0.1 to 5."""

    needs: ClassVar[BatchKind] = "labeled"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over rows in nats, and the number of rows."""
        import torch
        from torch.nn.functional import cross_entropy, kl_div

        assert batch.targets is not None
        twice = {name: torch.cat([values, values]) for name, values in batch.inputs.items()}
        logits = model(**twice).logits.float()
        hard = cross_entropy(logits, torch.cat([batch.targets, batch.targets]), reduction="sum") / 2
        p, q = logits.log_softmax(-1).chunk(2)
        apart = sum(kl_div(a, b, reduction="sum", log_target=True) for a, b in ((p, q), (q, p)))
        return LossSum(hard + self.alpha / 2 * apart, len(batch))
