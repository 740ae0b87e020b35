"""Cross-entropy of what follows a prompt."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum
from ftlib.training.objectives.next_tokens import next_token_loss


class Completion(Config):
    """The negative log-likelihood of a completion's tokens, its end included; the prompt is read and not learnt.

    Over tokens and not over rows: a long completion weighs more than a short one. It is what transformers computes from
    labels that are `UNTAUGHT` on the prompt.
    """

    kind: Literal["completion"] = "completion"

    needs: ClassVar[BatchKind] = "completions"
    packs: ClassVar[bool] = True

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed negative log-likelihood in nats, and the number of the completions' tokens."""
        return next_token_loss(model, batch)
