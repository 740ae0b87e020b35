"""REINFORCE, leaving one out: an answer is compared with the mean of the others to its prompt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.next_tokens import next_tokens
from ftlib.training.objectives.policy import PolicyObjective, of_groups

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class RLOO(PolicyObjective):
    """REINFORCE with the leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740).

    A_i = R_i - mean of the other R_j to the prompt, with R = reward - beta (log p(answer) - log p_start(answer)): the
    price of leaving the start is a part of the reward, before the baseline. An answer is one action: the loss is the
    mean over answers of -ratio x A, with the ratio of the whole answer's probability. Its expectation is the exact
    gradient of E[reward] - beta KL(model || start).
    """

    kind: Literal["rloo"] = "rloo"
    beta: float = Field(default=0.05, ge=0.0)
    """What a nat of log p(answer) / p_start(answer) costs, in the reward's unit."""

    @override
    def advantages(
        self, worth: Float[Tensor, " answers"], apart: Float[Tensor, " answers"], group: Int[Tensor, " answers"]
    ) -> Float[Tensor, " answers"]:
        returns = worth - self.beta * apart
        sums, counts = of_groups(returns, group)
        return returns - (sums - returns) / (counts - 1).clamp(min=1)

    @override
    def _surrogate(self, model: Any, batch: Batch, advantages: Tensor, before: Tensor, start: Tensor) -> LossSum:
        log_probs = self.log_probs(model, batch)
        rows = log_probs.sum(dim=1)
        if self.updates == 1:
            old = rows.detach()
        else:
            asked = next_tokens(batch) >= 0
            old = log_probs.detach().new_zeros(log_probs.shape).masked_scatter(asked, before).sum(dim=1)
        ratios = (rows - old).exp()
        return LossSum(-self.bounded(ratios, advantages).sum(), len(batch), self.clipped(ratios, advantages))
