"""Cross-entropy of answers to two rows at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum
from ftlib.training.objectives.prepared import Context, Prepared

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class Mixup(Config):
    """mixup (Zhang et al. 2018, arXiv 1710.09412): a row is mixed with another of the global batch, and so its label.

    Images are mixed pixel by pixel. Texts are mixed in what the head's last layer reads, as by Guo et al. 2019 (arXiv
    1905.08941); since that layer is linear, this is a mix of the two rows' logits. One share for each batch, of
    Beta(alpha, alpha), and each row's partner are drawn of the seed, the epoch and the batch's rows, so that
    micro-batches and workers change nothing. What is measured is not mixed.
    """

    kind: Literal["mixup"] = "mixup"
    alpha: float = Field(default=0.2, gt=0.0)
    """Near 0 a mix is nearly one of its rows, at 1 every share is as likely; the paper takes 0.1 to 0.4."""

    needs: ClassVar[BatchKind] = "labeled"

    def prepare(self, model: Any, batch: Batch) -> Prepared:
        """Return which rows there are, their labels, and their pixels or logits."""
        import torch

        assert batch.targets is not None
        assert batch.rows is not None
        pixels = batch.inputs.get("pixel_values")
        what = {"logits": model(**batch.inputs).logits.float()} if pixels is None else {"pixels": pixels}
        ids = torch.from_numpy(batch.rows).to(batch.targets.device)
        return Prepared({}, {"ids": ids, "labels": batch.targets, **what})

    def loss(self, model: Any, batch: Batch, context: Context) -> LossSum:
        """Return the summed loss of this piece's rows in nats, and their number; of rows as they are, in eval mode."""
        import torch
        from torch.nn.functional import cross_entropy

        assert batch.targets is not None
        assert context.places is not None
        if not model.training:
            logits = model(**batch.inputs).logits.float()
            return LossSum(cross_entropy(logits, batch.targets, reduction="sum"), len(batch))
        share, partners = self.drawn(context.draw, context.rows["ids"])
        labels, mine = context.rows["labels"], context.places
        if "pixels" in context.rows:
            others = context.rows["pixels"][partners[mine]]
            mixed = share * batch.inputs["pixel_values"] + (1 - share) * others
            logits = model(**{**batch.inputs, "pixel_values": mixed}).logits.float()
            return LossSum(_of_two(logits, labels[mine], labels[partners[mine]], share).sum(), len(batch))
        with torch.enable_grad():
            whole = context.rows["logits"].detach().requires_grad_()
            each = _of_two(share * whole + (1 - share) * whole[partners], labels, labels[partners], share)
            (slope,) = torch.autograd.grad(each.sum(), whole)
        moved = (model(**batch.inputs).logits.float() * slope[mine]).sum()
        return LossSum(each.detach()[mine].sum() + moved - moved.detach(), len(batch))

    def drawn(self, draw: Sequence[int], ids: Int[Tensor, " rows"]) -> tuple[float, Int[Tensor, " rows"]]:
        """Return a batch's share of each row, and the place of each one's partner: a function of both arguments."""
        import numpy as np
        import torch

        random = np.random.default_rng([*draw, *ids.tolist()])
        share, partners = float(random.beta(self.alpha, self.alpha)), random.permutation(len(ids))
        return share, torch.from_numpy(partners).to(ids.device)


def _of_two(
    logits: Float[Tensor, "rows labels"], one: Int[Tensor, " rows"], other: Int[Tensor, " rows"], share: float
) -> Float[Tensor, " rows"]:
    from torch.nn.functional import cross_entropy

    first, second = (cross_entropy(logits, labels, reduction="none") for labels in (one, other))
    return share * first + (1 - share) * second
