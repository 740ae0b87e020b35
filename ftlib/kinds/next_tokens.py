"""Which token each position of a row is to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.data.inputs import ATTENTION_MASK, INPUT_IDS
from ftlib.kinds.batch import UNTAUGHT, Batch

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def next_tokens(batch: Batch) -> Int[Tensor, "rows positions"]:
    """Return what each position but the last is to predict: the token after it; `UNTAUGHT` where not supervised.

    Targets mark the supervised tokens (chats); without any they are each row's last. Padding is known by the rows'
    lengths, never by the pad id: where pad equals eos, that would unlearn stopping.
    """
    import torch

    ids = batch.inputs[INPUT_IDS]
    if batch.targets is not None:
        return ids[:, 1:].masked_fill(~batch.targets[:, 1:], UNTAUGHT)
    ends = batch.inputs[ATTENTION_MASK].sum(dim=1, keepdim=True)
    positions = torch.arange(1, ids.shape[1], device=ids.device)
    supervised = (positions < ends) & (positions >= ends - batch.supervised[:, None])
    return ids[:, 1:].masked_fill(~supervised, UNTAUGHT)
