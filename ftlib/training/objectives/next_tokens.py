"""What language models are trained by."""

from __future__ import annotations

from typing import Any

from ftlib.kinds.batch import UNTAUGHT, Batch, LossSum
from ftlib.kinds.next_tokens import next_tokens


def next_token_loss(model: Any, batch: Batch) -> LossSum:
    """Return the summed negative log-likelihood, in nats, of each row's supervised tokens, and their number."""
    from ftlib.kinds.token_log_probs import nll_sum, token_log_probs

    total = nll_sum(token_log_probs(model, batch), batch)
    return LossSum(total, (next_tokens(batch) != UNTAUGHT).sum())
