"""Answers and preferences learnt at once, without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.answer_log_probs import answer_log_probs
from ftlib.kinds.batch import Batch, LossSum, sum_and_count

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class ORPO(Config):
    """Odds ratio preference optimisation (Hong et al. 2024, arXiv 2403.07691).

    With l the log-probability per token of an answer, and odds(l) = exp(l) / (1 - exp(l)), the loss of a pair is

        -l(chosen) - beta log s(log odds(l(chosen)) - log odds(l(rejected)))

    with s the logistic function. The prompt is read and not learnt.
    """

    kind: Literal["orpo"] = "orpo"
    beta: float = Field(default=0.1, gt=0.0)
    """What the preference counts beside the likelihood of the chosen answer; lambda in the paper."""

    needs: ClassVar[BatchKind] = "preferences"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over pairs, and their number."""
        per_token = answer_log_probs(model, batch).means
        margins = per_token[:, 0] - per_token[:, 1]
        measured = {"margin_per_token": sum_and_count(margins), "preference_accuracy": sum_and_count(margins > 0)}
        return LossSum(self.of_pairs(per_token).sum().float(), len(batch), measured)

    def of_pairs(self, per_token: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
        """Return each pair's loss, of the log-probabilities per token of its answers, chosen first."""
        import torch
        from torch.nn.functional import logsigmoid

        # An answer that is certain, as to the last bit none is in training, has no finite odds.
        log_odds = per_token - torch.log(-torch.expm1(per_token.clamp(max=-1e-12)))
        return -per_token[:, 0] - self.beta * logsigmoid(log_odds[:, 0] - log_odds[:, 1])
