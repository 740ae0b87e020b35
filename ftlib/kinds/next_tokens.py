"""Which token each position of a row is to predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ftlib.data.inputs import answer_input, answer_mask
from ftlib.kinds.batch import UNTAUGHT, Batch

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor


def next_tokens(batch: Batch) -> Int[Tensor, "rows positions"]:
    """Return what each position but the last is to predict: the token after it; `UNTAUGHT` where not supervised.

    Targets mark the supervised tokens (chats, pairs; judged ones with a sign); without any they are each row's last.
    Padding is known by the rows' lengths, never by the pad id: where pad equals eos, that would unlearn stopping. Of an
    encoder-decoder the rows are its decoder's, whose first token is the one that it begins with. A pack is one row
    here, and the last token of a row in it does not predict the first of the next.
    """
    import torch

    ids = batch.inputs[answer_input(batch.inputs)]
    positions = torch.arange(1, ids.shape[1], device=ids.device)
    if batch.borders is not None:
        supervised = _in_pack(positions, batch, batch.borders)[None]
    elif batch.targets is not None:
        padding = ids.shape[1] - batch.targets.shape[1]  # widths may be rounded up
        supervised = torch.nn.functional.pad(batch.targets != 0, (0, padding))[:, 1:]
    else:
        ends = batch.inputs[answer_mask(batch.inputs)].sum(dim=1, keepdim=True)
        supervised = (positions < ends) & (positions >= ends - batch.supervised[:, None])
    return ids[:, 1:].masked_fill(~supervised, UNTAUGHT)


def _in_pack(
    positions: Int[Tensor, " positions"], batch: Batch, borders: Int[Tensor, " borders"]
) -> Bool[Tensor, " positions"]:
    """Say which positions of a pack are supervised; padding behind its last row is not."""
    import torch

    padding = len(borders) - 1 - len(batch)
    supervised = torch.nn.functional.pad(batch.supervised, (0, padding))
    row = torch.searchsorted(borders[1:], positions, right=True)
    first, end = borders[row], borders[row + 1]
    if batch.targets is not None:
        marked = torch.nn.functional.pad(batch.targets, (0, 0, 0, padding))
        return (positions > first) & marked[row, (positions - first).clamp(max=marked.shape[1] - 1)]
    return (positions > first) & (positions >= end - supervised[row])
