"""Cross-entropy of hidden tokens."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class MaskedLM(Config):
    """The negative log-likelihood of every hidden token, over tokens and not over rows (arXiv 1810.04805)."""

    kind: Literal["masked_lm"] = "masked_lm"

    needs: ClassVar[BatchKind] = "masked"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed negative log-likelihood in nats, and the number of hidden tokens."""
        from ftlib.kinds.hidden_tokens import hidden_tokens

        said, meant = hidden_tokens(model, batch)
        return LossSum(-said.log_softmax(-1).gather(1, meant[:, None]).sum(), len(meant))
