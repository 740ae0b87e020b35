"""Cross-entropy of where an answer begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ftlib.batch import Batch, LossSum
from ftlib.config import BatchKind, Config

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class AnswerSpan(Config):
    """The mean of two cross-entropies over a row's tokens: of the answer's first and its last (Devlin et al. 2019)."""

    kind: Literal["answer_span"] = "answer_span"

    needs: ClassVar[BatchKind] = "spans"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over rows in nats, and the number of rows."""
        return LossSum(span_nll(model(**batch.inputs()), batch).sum(), len(batch.input_ids))


def span_nll(said: Any, batch: Batch) -> Float[Tensor, " rows"]:
    """Return each row's negative log-likelihood of its span: the mean of its two ends'.

    Padding has no part in the distribution, as transformers lets it have: a row's loss would depend on its neighbours.
    """
    from torch.nn.functional import cross_entropy

    assert batch.targets is not None
    padding = batch.attention_mask == 0
    first, last = (
        cross_entropy(logits.float().masked_fill(padding, float("-inf")), targets, reduction="none")
        for logits, targets in zip((said.start_logits, said.end_logits), batch.targets.unbind(dim=1), strict=True)
    )
    return (first + last) / 2
