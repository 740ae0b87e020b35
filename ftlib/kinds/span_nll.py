"""How unlikely a model finds where an answer begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftlib.data.inputs import ATTENTION_MASK
from ftlib.kinds.batch import Batch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def span_nll(output: Any, batch: Batch) -> Float[Tensor, " rows"]:
    """Return each row's negative log-likelihood of its span: the mean of its two ends'.

    Padding has no part in the distribution, as transformers lets it have: a row's loss would depend on its neighbours.
    """
    from torch.nn.functional import cross_entropy

    assert batch.targets is not None
    padding = batch.inputs[ATTENTION_MASK] == 0
    first, last = (
        cross_entropy(logits.float().masked_fill(padding, float("-inf")), targets, reduction="none")
        for logits, targets in zip((output.start_logits, output.end_logits), batch.targets.unbind(dim=1), strict=True)
    )
    return (first + last) / 2
