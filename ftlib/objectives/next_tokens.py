"""What language models are trained by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftlib.batch import Batch, LossSum

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def next_token_loss(model: Any, batch: Batch) -> LossSum:
    """Return the summed negative log-likelihood, in nats, of each row's supervised tokens, and their number."""
    from torch.nn.functional import cross_entropy

    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    targets = next_tokens(batch)
    total = cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="sum")
    return LossSum(total, int((targets != -100).sum()))


def next_tokens(batch: Batch) -> Int[Tensor, "rows positions"]:
    """Return what each position but the last is to predict: the token after it, or -100 where that is not supervised.

    Padding is known by the rows' lengths, never by the pad id: where pad equals eos, that would unlearn stopping.
    """
    import torch

    ends = batch.attention_mask.sum(dim=1, keepdim=True)
    positions = torch.arange(1, batch.input_ids.shape[1], device=batch.input_ids.device)
    supervised = (positions < ends) & (positions >= ends - batch.supervised[:, None])
    return batch.input_ids[:, 1:].masked_fill(~supervised, -100)
