"""Next-token cross-entropy."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.batch import Batch, LossSum
from ftlib.config import BatchKind, Config


class CausalLM(Config):
    """The negative log-likelihood of every next token, over tokens and not over rows."""

    kind: Literal["causal_lm"] = "causal_lm"

    needs: ClassVar[BatchKind] = "tokens"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed negative log-likelihood in nats, and the number of predicted tokens."""
        from torch.nn.functional import cross_entropy

        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        # Padding is known by the mask, never by the pad id: where pad equals eos, that would unlearn stopping.
        targets = batch.input_ids[:, 1:].masked_fill(batch.attention_mask[:, 1:] == 0, -100)
        total = cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="sum")
        return LossSum(total, int((targets != -100).sum()))
