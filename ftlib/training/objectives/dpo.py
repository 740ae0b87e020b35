"""Preferences, learnt without a reward model: DPO and those of its family that differ in a line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from ftlib.config import BatchKind, Config
from ftlib.kinds.answer_log_probs import answer_log_probs
from ftlib.kinds.batch import Batch, LossSum, sum_and_count

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class DPO(Config):
    """Direct preference optimisation (Rafailov et al. 2023, arXiv 2305.18290).

    The reward of an answer is r = log p(y | x) - log p_ref(y | x) in nats, summed over its tokens with its end; the
    loss is, of d = r(chosen) - r(rejected),

        sigmoid   -log s(beta d)
        robust    (-(1 - e) log s(beta d) + e log s(-beta d)) / (1 - 2 e), where a share e of the pairs is the wrong way
                  round (Chowdhury et al. 2024, arXiv 2403.00409)
        ipo       (d - 1 / (2 beta))^2 (Azar et al. 2023, arXiv 2310.12036), rewards per token

    with s the logistic function. The reference is a score: asked once for each answer before training, by the forward
    pass of training in its precision, and not in memory while the policy learns. Dropout is off in both, so that the
    first loss is ln 2 where the reference is the phase's start.
    """

    kind: Literal["dpo"] = "dpo"
    loss_type: Literal["sigmoid", "ipo", "robust"] = "sigmoid"
    """What is minimised of a pair's difference of rewards."""
    beta: float = Field(default=0.1, gt=0.0)
    """How near the policy is kept to the reference: the larger, the nearer."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Of robust, the share of pairs that prefer the wrong answer."""
    length_normalised: bool | None = None
    """Whether rewards are per token, so that long answers weigh no more than short ones; null: those of ipo alone."""

    needs: ClassVar[BatchKind] = "preferences"
    scores: ClassVar[tuple[str, ...]] = ("reference",)
    anchors: ClassVar[tuple[str, ...]] = scores
    drops_out: ClassVar[bool] = False

    @model_validator(mode="after")
    def _smoothes_robust(self) -> DPO:
        if (self.loss_type == "robust") != (self.label_smoothing > 0):
            raise ValueError(
                f"label_smoothing is the share of wrong pairs that loss_type robust reckons with, got {self.loss_type} "
                f"and {self.label_smoothing:g}; give robust one between 0 and 0.5, and others none"
            )
        return self

    @property
    def first_loss(self) -> float | None:
        """Return the loss of a policy that is its own reference; None for a loss that is not held to it."""
        return None if self.loss_type == "ipo" else math.log(2)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over pairs, their number, and in nats what the loss compares: rewards before `beta`."""
        said = answer_log_probs(model, batch)
        rewards = said.sums - batch.columns["reference"].double()
        if self.loss_type == "ipo" if self.length_normalised is None else self.length_normalised:
            rewards = rewards / said.tokens
        margins = rewards[:, 0] - rewards[:, 1]
        measured = {
            "chosen_reward": sum_and_count(rewards[:, 0]),
            "rejected_reward": sum_and_count(rewards[:, 1]),
            "reward_margin": sum_and_count(margins),
            "reward_accuracy": sum_and_count(margins > 0),
        }
        return LossSum(self.of_pairs(margins).sum().float(), len(batch), measured)

    def of_pairs(self, difference: Float[Tensor, " pairs"]) -> Float[Tensor, " pairs"]:
        """Return each pair's loss, of the difference of its rewards."""
        from torch.nn.functional import logsigmoid

        if self.loss_type == "ipo":
            return (difference - 1 / (2 * self.beta)).square()
        wrong, right = self.label_smoothing, 1 - self.label_smoothing
        away, towards = logsigmoid(-self.beta * difference), logsigmoid(self.beta * difference)
        return (wrong * away - right * towards) / (right - wrong)
