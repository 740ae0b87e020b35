"""What language models are trained by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.next_tokens import next_tokens

if TYPE_CHECKING:
    pass


def next_token_loss(model: Any, batch: Batch) -> LossSum:
    """Return the summed negative log-likelihood, in nats, of each row's supervised tokens, and their number."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    targets = next_tokens(batch)
    total = cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="sum")
    return LossSum(total, int((targets != -100).sum()))
