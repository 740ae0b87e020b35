"""Group relative policy optimisation: an answer is compared with its group, token by token."""

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


class GRPO(PolicyObjective):
    """Group relative policy optimisation (Shao et al. 2024, arXiv 2402.03300), with three normalisers.

    A_i = (R_i - mean of the group) / (standard deviation of the group + `std_epsilon`), the unbiased one; every token
    of the answer has it. A token's loss is -min(ratio A, clip(ratio) A) + beta k3, with k3 = e^d - d - 1, d =
    log p_start - log p: an estimate of KL(model || start) that is never negative.
    """

    kind: Literal["grpo"] = "grpo"
    normaliser: Literal["grpo", "dr_grpo", "dapo"] = "dapo"
    """What tokens' losses are added up to. grpo: the mean over answers of the mean over an answer's tokens, so a token
    of a long answer counts less. dr_grpo: the sum over answers by `max_new_tokens` each, and no standard deviation in
    the advantage (Liu et al. 2025, arXiv 2503.20783). dapo: the mean over all tokens of the global batch (Yu et al.
    2025, arXiv 2503.14476)."""
    std_epsilon: float = Field(default=1e-4, gt=0.0)
    """What is added to a group's standard deviation, in the reward's unit."""
    beta: float = Field(default=0.0, ge=0.0)
    """How much k3 counts; KL(model || start) is measured either way."""

    @property
    @override
    def counts_rows(self) -> bool:
        return self.normaliser != "dapo"

    @override
    def advantages(
        self, worth: Float[Tensor, " answers"], apart: Float[Tensor, " answers"], group: Int[Tensor, " answers"]
    ) -> Float[Tensor, " answers"]:
        sums, counts = of_groups(worth, group)
        centred = worth - sums / counts
        if self.normaliser == "dr_grpo":
            return centred
        squares, _ = of_groups(centred**2, group)
        return centred / ((squares / (counts - 1).clamp(min=1)).sqrt() + self.std_epsilon)

    @override
    def _surrogate(self, model: Any, batch: Batch, advantages: Tensor, before: Tensor, start: Tensor) -> LossSum:
        import torch

        asked = next_tokens(batch) >= 0
        log_probs = self.log_probs(model, batch)[asked]
        rows = torch.arange(len(batch), device=asked.device)[:, None].expand(asked.shape)[asked]
        ratios = (log_probs - (log_probs.detach() if self.updates == 1 else before)).exp()
        measured = self.clipped(ratios, advantages[rows])
        terms = -self.bounded(ratios, advantages[rows])
        if self.beta:
            behind = start - log_probs
            terms = terms + self.beta * (behind.exp() - behind - 1)
        if self.normaliser == "dapo":
            return LossSum(terms.sum(), len(terms), measured)
        lengths = batch.supervised[rows] if self.normaliser == "grpo" else self.max_new_tokens
        return LossSum((terms / lengths).sum(), len(batch), measured)
