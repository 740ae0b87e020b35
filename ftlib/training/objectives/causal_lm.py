"""Next-token cross-entropy."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum
from ftlib.training.objectives.next_tokens import next_token_loss


class CausalLM(Config):
    """The negative log-likelihood of every next token, over tokens and not over rows."""

    kind: Literal["causal_lm"] = "causal_lm"

    needs: ClassVar[BatchKind] = "tokens"
    packs: ClassVar[bool] = True

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed negative log-likelihood in nats, and the number of predicted tokens."""
        return next_token_loss(model, batch)
