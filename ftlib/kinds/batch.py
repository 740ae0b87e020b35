"""What passes between data, objective and loop: a batch in, a sum and a count out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int
    from torch import Tensor


UNTAUGHT = -100
"""The target of a token that teaches nothing, as in torch's and transformers' losses."""


@dataclass(frozen=True)
class Batch:
    """Rows as one model reads them: `model(**batch.inputs)`.

    Rows of tokens are padded on the right to the longest of them, and `attention_mask` says where. Where rows were
    packed instead, the model reads one row: inputs are 1 x tokens without a mask, the rows lie one behind the other in
    it, `borders` says where, and `position_ids` begin again at 0 with each. `supervised`, `targets`, `rows` and
    `columns` count the rows, never the packs: `len(batch)` is the same for the same rows either way.
    """

    inputs: Mapping[str, Tensor]
    """By the names of the model's forward pass; the first dimension is the row, or 1 for a pack."""
    supervised: Int[Tensor, " rows"]
    """Terms of each row's loss: 1 for a label; for a language model, the tokens that are predicted, at its end
    where no targets say which."""
    targets: Tensor | None = None
    """What the rows are taught, as their head lays it out: for `labeled`, each row's position in the model's labels;
    for `tagged`, that of every token's tag, or `UNTAUGHT`; for `multi_labeled`, rows x labels of 0 and 1; for `scored`,
    a number each; for `spans`, the places of first and last token; for `chats`, rows x tokens, which of them are
    predicted. Of `preferences` and `judged` a row is two sequences, in inputs and targets one behind the other: which
    tokens are the answer's, of `judged` -1 where it is not wanted. For `compared`, the margin of each pair, whose two
    texts lie one behind the other in the inputs. None where the tokens themselves are the targets."""
    terms: int | None = None
    """What `supervised` sums to, known without waiting for the device; None where only the device knows."""
    rows: Int[np.ndarray, " rows"] | None = None
    """Each row's place in its split, whose `row_ids` name it."""
    borders: Int[Tensor, " borders"] | None = None
    """Of a pack: where each row begins, and where the last ends, as int32: what attention kernels call `cu_seqlens`.
    Where padding fills the pack up, it is one more row, which no other field knows of."""
    longest: int = 0
    """Of a pack: the tokens between two borders at most, known without waiting for the device."""
    columns: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """Numbers that a frozen model gave each row, by name: one each, an array of one shape each, or one for every token,
    padded with 0. Read from the split's `score:<name>` columns; no gradient reaches them."""

    task: str | None = None
    """Which task the rows are of, where a model has several; `LossSum` and head are that task's."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.supervised)


@dataclass(frozen=True)
class LossSum:
    """An objective never divides: only the loop does, by the count of the whole global batch.

    That makes the gradient independent of how a batch is split over micro-batches and workers.
    """

    total: Float[Tensor, ""]
    count: int | Int[Tensor, ""]
    """Supervised items in `total`: rows or tokens; what the rows' `supervised` sums to. A tensor is read only where it
    is compared with what the format counted, so that a step on a GPU does not wait for it."""
    measured: Mapping[str, Float[Tensor, " two"]] = field(default_factory=dict[str, "Tensor"])
    """What curves say of the step beside its loss, by name: a sum, and how many it is of. No gradient reaches it; an
    objective gives the same names for every batch."""


def sum_and_count(values: Tensor, where: Tensor | None = None) -> Float[Tensor, " two"]:
    """Return what `LossSum.measured` says of values: their sum and number; of those alone that are meant by `where`."""
    import torch

    kept = values.detach().double()
    if where is None:
        return torch.stack([kept.sum(), kept.new_full((), kept.numel())])
    return torch.stack([(kept * where).sum(), where.double().sum()])
