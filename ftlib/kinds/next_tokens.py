"""Which token each position of a row is to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.kinds.batch import Batch

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def next_tokens(batch: Batch) -> Int[Tensor, "rows positions"]:
    """Return what each position but the last is to predict: the token after it, or -100 where that is not supervised.

    Padding is known by the rows' lengths, never by the pad id: where pad equals eos, that would unlearn stopping.
    """
    import torch

    ends = batch.attention_mask.sum(dim=1, keepdim=True)
    positions = torch.arange(1, batch.input_ids.shape[1], device=batch.input_ids.device)
    supervised = (positions < ends) & (positions >= ends - batch.supervised[:, None])
    return batch.input_ids[:, 1:].masked_fill(~supervised, -100)
