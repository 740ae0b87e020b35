"""Each text is to be found by its own anchor, among all texts of the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum
from ftlib.training.objectives.prepared import Context, Prepared

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class MultipleNegatives(Config):
    """Multiple negatives ranking, InfoNCE (Henderson et al. 2017, arXiv 1705.00652; arXiv 1807.03748).

    Cross-entropy of `scale` times the cosines of an anchor with every positive, and negative, of the whole global
    batch; its own is right. A text that is the same as its own, or a positive of the same anchor, is no negative.

    Vectors are computed twice, as by GradCache (Gao et al. 2021, arXiv 2101.06983): once without gradients for the
    whole batch, and once piece by piece, so that the loss does not depend on micro-batches and workers. The first pass
    is without dropout, which in the second one adds noise to the gradient's direction.
    """

    kind: Literal["multiple_negatives"] = "multiple_negatives"
    scale: float = Field(default=20.0, gt=0.0)
    """What cosines are multiplied with: 1 / temperature."""
    symmetric: bool = False
    """Whether anchors are to be found by their positives too; the loss is the mean of both ways."""

    needs: ClassVar[BatchKind] = "retrieved"

    def prepare(self, model: Any, batch: Batch) -> Prepared:
        """Return each row's vectors, and which texts they are of."""
        assert batch.targets is not None
        return Prepared(sums={}, rows={"vectors": _vectors(model, batch), "keys": batch.targets})

    def loss(self, model: Any, batch: Batch, context: Context) -> LossSum:
        """Return the summed loss of this piece's rows among all of the batch, in nats, and their number."""
        import torch

        assert context.places is not None
        with torch.enable_grad():
            whole = context.rows["vectors"].detach().requires_grad_()
            each = self.of_rows(whole, context.rows["keys"])
            (slope,) = torch.autograd.grad(each.sum(), whole)
        mine = each.detach()[context.places].sum()
        if not torch.is_grad_enabled():
            return LossSum(mine, len(batch))
        moved = (_vectors(model, batch) * slope[context.places]).sum()
        return LossSum(mine + moved - moved.detach(), len(batch))

    def of_rows(
        self, vectors: Float[Tensor, "rows texts width"], keys: Int[Tensor, "rows texts"]
    ) -> Float[Tensor, " rows"]:
        """Return the loss of every row; texts are anchor, positive and, if any, negative."""
        import torch
        from torch.nn.functional import cross_entropy

        rows = torch.arange(len(keys), device=keys.device)
        anchors, texts = vectors[:, 0], vectors[:, 1:].transpose(0, 1).flatten(0, 1)
        names = keys[:, 1:].T.flatten()
        same_anchor, named = keys[:, None, 0] == keys[None, :, 0], keys[:, 1, None] == names
        right = torch.zeros(len(rows), len(names), dtype=torch.bool, device=keys.device)
        right[rows, rows] = True
        # Whatever else its anchor is to find, under any row, is found rightly.
        others = (same_anchor.float() @ named.float() > 0) & ~right
        cosines = self.scale * (anchors @ texts.T).masked_fill(others, -torch.inf)
        each = cross_entropy(cosines, rows, reduction="none")
        if not self.symmetric:
            return each
        back = self.scale * (vectors[:, 1] @ anchors.T).masked_fill(others[:, : len(rows)].T, -torch.inf)
        return (each + cross_entropy(back, rows, reduction="none")) / 2


def _vectors(model: Any, batch: Batch) -> Float[Tensor, "rows texts width"]:
    from ftlib.kinds.pooling import pooled

    assert batch.targets is not None
    return pooled(model, batch.inputs).unflatten(0, batch.targets.shape)
