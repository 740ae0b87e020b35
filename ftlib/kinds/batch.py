"""What passes between data, objective and loop: a batch in, a sum and a count out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


UNTAUGHT = -100
"""The target of a token that teaches nothing, as in torch's and transformers' losses."""


@dataclass(frozen=True)
class Batch:
    """Rows padded on the right to the longest of them."""

    input_ids: Int[Tensor, "rows tokens"]
    attention_mask: Int[Tensor, "rows tokens"]
    """1 on tokens, 0 on padding."""
    supervised: Int[Tensor, " rows"]
    """Terms of each row's loss: 1 for a label; for a language model, the tokens at its end that are predicted."""
    targets: Tensor | None = None
    """What the rows are taught, as their head lays it out: for `labeled`, each row's position in the model's labels;
    for `tagged`, that of every token's tag, or `UNTAUGHT`; for `multi_labeled`, rows x labels of 0 and 1; for `scored`,
    a number each; for `spans`, the places of first and last token. None where the tokens themselves are the targets."""
    segments: Int[Tensor, "rows tokens"] | None = None
    """`token_type_ids`, for rows of two texts and a model that tells them apart by it."""

    def inputs(self) -> dict[str, Tensor]:
        """Return what a model is called with."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        return inputs if self.segments is None else {**inputs, "token_type_ids": self.segments}


@dataclass(frozen=True)
class LossSum:
    """An objective never divides: only the loop does, by the count of the whole global batch.

    That makes the gradient independent of how a batch is split over micro-batches and workers.
    """

    total: Float[Tensor, ""]
    count: int
    """Supervised items in `total`: rows or tokens; what the rows' `supervised` sums to."""
