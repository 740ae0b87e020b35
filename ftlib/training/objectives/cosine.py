"""Self-training: a model learns from what it was sure of some steps ago."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from ftlib.config import BatchKind, Config, Fraction
from ftlib.errors import TrainingError
from ftlib.kinds.batch import Batch, LossSum
from ftlib.training.objectives.prepared import Context, Prepared

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class Cosine(Config):
    """COSINE (Yu et al. 2020, arXiv 2010.07835): contrastive self-training behind a phase on weak labels.

    The labels of its rows are not read. The teacher f is the model as it began, then, every `renewal` steps, as it is.
    Over the global batch, y_ij is f_ij^2 / sum_i f_ij, normalised for each row; w_i is 1 - H(y_i) / log C; the rows
    with w above `threshold` are sure, and the loss is the mean over these of

        w KL(y || p)  +  contrast * l(v, v')  +  smoothing * KL(uniform || p)

    where l is, over pairs of sure rows, half of d^2 where their y say the same label, else of max(0, margin - d)^2, of
    the distance d of what the head's last layer reads of each. The published code divides H by the log of the batch,
    and takes v from the teacher, so that its second term has no gradient; here it has, as in the paper.
    """

    kind: Literal["cosine"] = "cosine"
    renewal: int = Field(default=100, gt=0)
    """After how many steps the teacher is renewed: T3. Checkpoints hold it, so a resumed run goes on with the same."""
    threshold: Fraction = 0.7
    """From what confidence on a row teaches: xi, of 0 to 1."""
    contrast: float = Field(default=1.0, ge=0.0)
    """What the distances of sure rows count."""
    margin: float = Field(default=1.0, gt=0.0)
    """How far apart rows of different labels are to be: gamma."""
    smoothing: float = Field(default=0.1, ge=0.0)
    """What the divergence from an even answer counts: lambda; it keeps the model from being sure of everything."""

    needs: ClassVar[BatchKind] = "labeled"
    counts_known: ClassVar[bool] = False

    def remember(self, model: Any, batch: Batch) -> Prepared:
        """Return the teacher's probabilities of every row."""
        return Prepared({}, {"answers": model(**batch.inputs).logits.double().softmax(-1)})

    def prepare(self, model: Any, batch: Batch) -> Prepared:
        """Return what the head's last layer reads of every row."""
        return Prepared({}, {"features": _read(model, batch)[1]})

    def count_of(self, rows: Mapping[str, Tensor]) -> int:
        """Return how many rows of the batch the teacher is sure of."""
        return int(self.pseudo_labels(rows["answers"]).sure.sum())

    def loss(self, model: Any, batch: Batch, context: Context) -> LossSum:
        """Return the sum over this piece's sure rows in nats, and their number."""
        import torch

        assert context.places is not None
        whole = self.pseudo_labels(context.rows["answers"])
        soft, weights, sure = (one[context.places] for one in whole)
        logits, features = _read(model, batch)
        p = logits.log_softmax(-1)
        divergence = (torch.xlogy(soft, soft) - soft * p).sum(-1)
        even = -math.log(p.shape[1]) - p.mean(-1)
        total = ((weights * divergence + self.smoothing * even) * sure).sum()
        if self.contrast and bool(whole.sure.any()):
            with torch.enable_grad():
                all_features = context.rows["features"].detach().requires_grad_()
                each = self.contrast * self.distances(all_features, whole)
                (slope,) = torch.autograd.grad(each.sum(), all_features)
            moved = (features * slope[context.places]).sum()
            total = total + each.detach()[context.places].sum() + moved - moved.detach()
        return LossSum(total, int(sure.sum()))

    def pseudo_labels(self, answers: Float[Tensor, "rows labels"]) -> PseudoLabels:
        """Return the soft labels of a whole batch, each row's confidence, and which rows are sure."""
        import torch

        sharp = answers.square() / answers.sum(0)
        soft = sharp / sharp.sum(-1, keepdim=True)
        weights = 1 + torch.xlogy(soft, soft).sum(-1) / math.log(answers.shape[1])
        return PseudoLabels(soft.float(), weights.float(), weights > self.threshold)

    def distances(self, features: Float[Tensor, "rows width"], labels: PseudoLabels) -> Float[Tensor, " rows"]:
        """Return each sure row's mean over the other sure rows: together their number times the mean of pairs."""
        import torch

        squares = (features[:, None] - features[None]).square().sum(-1)
        pairs = labels.sure[:, None] & labels.sure[None]
        pairs = pairs & ~torch.eye(len(features), dtype=torch.bool, device=features.device)
        names = labels.soft.argmax(-1)
        # The root of 0 has no gradient: rows that say the same word for word are apart by nothing all the same.
        apart = torch.where(squares > 0, squares, 1.0).sqrt() * (squares > 0)
        each = torch.where(names[:, None] == names[None], squares, (self.margin - apart).clamp(min=0).square()) / 2
        return (each * pairs).sum(-1) / max(1, int(labels.sure.sum()) - 1)


class PseudoLabels(NamedTuple):
    """What a teacher says of a batch, rows in its order."""

    soft: Float[Tensor, "rows labels"]
    weights: Float[Tensor, " rows"]
    """Confidence, of 0 to 1."""
    sure: Any
    """Which rows teach."""


def _read(model: Any, batch: Batch) -> tuple[Float[Tensor, "rows labels"], Float[Tensor, "rows width"]]:
    """Return the logits of every row, and what the head's last layer made them of."""
    with _last_read(model) as read:
        logits = model(**batch.inputs).logits.float()
    if not read or read[-1].ndim != 2:
        raise TrainingError(
            "objective 'cosine' compares what the head's last layer reads of each row, and this model's reads every "
            "token or is no linear layer; set contrast to 0 with another objective, or take an encoder"
        )
    return logits, read[-1].float()


@contextmanager
def _last_read(model: Any) -> Generator[list[Tensor]]:
    """Hear what linear layers with an output for each label read while the block runs."""
    from torch import nn

    labels, read = getattr(model, "module", model).config.num_labels, list[Any]()
    layers = [one for one in model.modules() if isinstance(one, nn.Linear) and one.out_features == labels]
    hooks = [one.register_forward_pre_hook(lambda _, given: read.append(given[0])) for one in layers]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()
