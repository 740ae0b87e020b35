"""Preferences by the likelihood per token, without a reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.answer_log_probs import answer_log_probs
from ftlib.kinds.batch import Batch, LossSum, sum_and_count

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class SimPO(Config):
    """Simple preference optimisation (Meng et al. 2024, arXiv 2405.14734).

    With l the log-probability per token of an answer, the loss of a pair is

        -log s(beta (l(chosen) - l(rejected)) - margin)

    with s the logistic function. Nothing but a small learning rate keeps the policy near its start.
    """

    kind: Literal["simpo"] = "simpo"
    beta: float = Field(default=2.0, gt=0.0)
    """What a difference of a nat per token counts."""
    margin: float = Field(default=1.0, ge=0.0)
    """By how much the chosen answer is to be ahead; gamma in the paper, where half of beta does well."""

    needs: ClassVar[BatchKind] = "preferences"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over pairs, and their number."""
        per_token = answer_log_probs(model, batch).means
        margins = per_token[:, 0] - per_token[:, 1]
        measured = {"margin_per_token": sum_and_count(margins), "preference_accuracy": sum_and_count(margins > 0)}
        return LossSum(self.of_pairs(per_token).sum().float(), len(batch), measured)

    def of_pairs(self, per_token: Float[Tensor, "pairs 2"]) -> Float[Tensor, " pairs"]:
        """Return each pair's loss, of the log-probabilities per token of its answers, chosen first."""
        from torch.nn.functional import logsigmoid

        return -logsigmoid(self.beta * (per_token[:, 0] - per_token[:, 1]) - self.margin)
