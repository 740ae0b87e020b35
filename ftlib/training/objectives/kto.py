"""Thumbs, learnt one by one: answers that were wanted, and others that were not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.answer_log_probs import answer_log_probs, each_other
from ftlib.kinds.batch import Batch, LossSum, sum_and_count
from ftlib.training.objectives.prepared import Context, Prepared

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


class KTO(Config):
    """Kahneman-Tversky optimisation (Ethayarajh et al. 2024, arXiv 2402.01306).

    The reward of an answer is r = log p(y | x) - log p_ref(y | x) in nats; the loss of a row is

        wanted    desirable (1 - s(beta (r - z0)))
        unwanted  undesirable (1 - s(beta (z0 - r)))

    with s the logistic function. z0, from which on a reward is a gain, is how far the policy has gone from the
    reference: the mean of r over the global batch's prompts, each with an answer to another prompt; no less than 0,
    and no gradient reaches it. Which answer that is depends on the rows alone, so both are scored before training, and
    the loss depends neither on how a batch is split nor on what is drawn into it. Dropout is off, as for dpo.
    """

    kind: Literal["kto"] = "kto"
    beta: float = Field(default=0.1, gt=0.0)
    """How near the policy is kept to the reference: the larger, the nearer."""
    desirable: float = Field(default=1.0, gt=0.0)
    """What an answer counts that is wanted. Its authors keep desirable x wanted rows between 1 and 4/3 times
    undesirable x unwanted rows."""
    undesirable: float = Field(default=1.0, gt=0.0)
    """What an answer counts that is not."""

    needs: ClassVar[BatchKind] = "judged"
    scores: ClassVar[tuple[str, ...]] = ("reference",)
    anchors: ClassVar[tuple[str, ...]] = scores
    drops_out: ClassVar[bool] = False

    @property
    def first_loss(self) -> float | None:
        """Return the loss of a policy that is its own reference; None where it depends on how many rows are wanted."""
        return self.desirable / 2 if self.desirable == self.undesirable else None

    def prepare(self, model: Any, batch: Batch) -> Prepared:
        """Return the sum of the rewards of answers to other prompts, and their number."""
        import torch

        others = answer_log_probs(model, each_other(batch, 1)).sums[:, 0] - batch.columns["reference"][:, 1].double()
        return Prepared({"rewards": others.sum(), "rows": torch.full_like(others.sum(), len(batch))})

    def loss(self, model: Any, batch: Batch, context: Context) -> LossSum:
        """Return the sum over rows, and their number."""
        assert batch.targets is not None
        rewards = answer_log_probs(model, each_other(batch, 0)).sums[:, 0] - batch.columns["reference"][:, 0].double()
        distance = (context.sums["rewards"] / context.sums["rows"]).clamp(min=0)
        wanted = batch.targets[::2].amax(dim=1) > 0
        measured = {
            "wanted_reward": sum_and_count(rewards, wanted),
            "unwanted_reward": sum_and_count(rewards, ~wanted),
            "z0": sum_and_count(distance.expand(len(batch))),
        }
        return LossSum(self.of_rows(rewards, distance, wanted).sum().float(), len(batch), measured)

    def of_rows(
        self, rewards: Float[Tensor, " rows"], distance: Float[Tensor, ""], wanted: Bool[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """Return each row's loss, of its reward and z0."""
        import torch

        gains = torch.where(wanted, rewards - distance, distance - rewards)
        weights = torch.where(wanted, self.desirable, self.undesirable)
        return weights * (1 - torch.sigmoid(self.beta * gains))
