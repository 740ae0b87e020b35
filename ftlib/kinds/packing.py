"""How a model keeps the rows of a pack apart, and the proof that it does, on the model and the rows at hand.

Two ways are tried. An attention of our own is told the rows' borders (`ftlib.kinds.packed_attention`). Where a family
does not hand them on, transformers finds the rows by `position_ids` that begin again, and masks what lies between them.
Either is silently wrong with some families: state-space layers and convolutions carry one row into the next, and
positions may be counted from the pack's start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ftlib.data.inputs import Marks, Tokens
from ftlib.errors import ModelError, first_line
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.packed_attention import NAME, plain_model
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.token_log_probs import token_log_probs

TOLERANCE = 1e-4
"""What packing may move a token's log-probability by, in nats: the rounding of fp32 sums of another order is 1e-6."""
_ROUNDING = 8
"""How much more than padding may packing move it: in bf16, that is the rounding of its sums in another order."""


@torch.no_grad()
def settle_packing(model: nn.Module, split: PreparedSplit, collate: Collator, most: int) -> None:
    """Give a model, in eval mode, a way to keep packed rows apart that is proven on two of the split's rows.

    They are the longest that a pack of `most` tokens holds, and every token of them is to be answered in it as it is
    alone, whether it is supervised or not. All ranks of a sharded model call this together. Raises ModelError for a
    model that answers a row by what it is packed with.
    """
    if not all(isinstance(column, Tokens | Marks) for column in split.inputs):
        raise ModelError("compute.pack_tokens: the rows have more than tokens, and packs do not; set it to null")
    rows = _two_rows(split.lengths, most)
    if rows is None:  # no pack will ever hold two
        return

    def said(batch: Batch) -> Float[Tensor, " tokens"]:
        every = collate.sent(torch.from_numpy(split.lengths[batch.rows]))
        whole = replace(batch, supervised=every, targets=None, terms=None)
        return token_log_probs(model, whole)[next_tokens(whole) != UNTAUGHT]

    alone = torch.cat([said(split.batch(row, collate)) for row in rows[:, None]])
    by_padding = _largest(said(split.batch(rows, collate)) - alone)
    allowed = max(TOLERANCE, _ROUNDING * by_padding)
    pack, failures = split.pack(rows, collate), list[str]()
    for choose in _ways(model):
        choose()
        try:
            by_packing = _largest(said(pack) - alone)
        except (ValueError, TypeError, IndexError, RuntimeError, AssertionError, AttributeError) as error:
            failures.append(first_line(error))
            continue
        if by_packing <= allowed:  # written so that NaN fails
            return
        failures.append(f"a token by {by_packing:.2g} nats, where rounding is {allowed:.2g}")
    raise ModelError(
        f"compute.pack_tokens: {type(plain_model(model)).__name__} answers a row otherwise in a pack than alone: "
        f"{failures[-1]}; it does not keep packed rows apart: set it to null"
    )


def _two_rows(lengths: Int[np.ndarray, " rows"], most: int) -> Int[np.ndarray, " 2"] | None:
    """Return the longest row that any other fits beside, and the longest of those; None if no two do."""
    order = np.argsort(-lengths, kind="stable")
    order = order[lengths[order] > 1]
    shorter = -lengths[order]
    first = int(np.searchsorted(shorter, -shorter[-1] - most)) if len(order) else 0
    if first >= len(order) - 1:
        return None
    second = max(first + 1, int(np.searchsorted(shorter, -shorter[first] - most)))
    return order[[first, second]]


def _largest(differences: Float[Tensor, " tokens"]) -> float:
    return float(differences.abs().max())


def _ways(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Yield what sets each way."""
    plain: Any = plain_model(model)
    before = plain.config._attn_implementation
    if before == "sdpa":
        yield lambda: plain.set_attn_implementation(NAME)
    yield lambda: plain.set_attn_implementation(before)
