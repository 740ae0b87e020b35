"""How likely a language model finds whole answers: pairs of a prompt, and answers that somebody judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from ftlib.kinds.batch import Batch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class AnswerLogProbs(NamedTuple):
    """Of each row's answers, in the order of the row."""

    sums: Float[Tensor, "rows answers"]
    """log p(answer | prompt) in nats, over the answer's tokens with its end, at temperature 1, in float64."""
    tokens: Int[Tensor, "rows answers"]
    """How many tokens that is over."""

    @property
    def means(self) -> Float[Tensor, "rows answers"]:
        """Return the log-probability per token."""
        return self.sums / self.tokens


def answer_log_probs(model: Any, batch: Batch, *, measured: bool = False) -> AnswerLogProbs:
    """Return what a model says of the answers of `preferences`, chosen and rejected, or `judged`, one a row.

    `measured` is as in `token_log_probs`. Gradients reach the model.
    """
    from ftlib.kinds.token_log_probs import token_log_probs

    assert batch.targets is not None
    # `terms` are those of the loss, of which a row has one, and not its tokens.
    sums = token_log_probs(model, replace(batch, terms=None), measured=measured).double().sum(dim=1)
    return AnswerLogProbs(sums.unflatten(0, (len(batch), -1)), lengths_of(batch))


def lengths_of(batch: Batch) -> Int[Tensor, "rows answers"]:
    """Return the tokens of each row's answers."""
    assert batch.targets is not None
    return (batch.targets != 0).sum(dim=1).unflatten(0, (len(batch), -1))


def each_other(batch: Batch, which: int) -> Batch:
    """Return a batch of one of the two sequences of each row: 0 or 1."""
    assert batch.targets is not None
    inputs: Mapping[str, Tensor] = {name: tensor[which::2] for name, tensor in batch.inputs.items()}
    return replace(batch, inputs=inputs, targets=batch.targets[which::2])
