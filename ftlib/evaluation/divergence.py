"""How far a language model's answers moved: KL divergence between two models, token by token, over the vocabulary."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ftlib.errors import ModelError
from ftlib.evaluation.forward_pass import batches_of
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.token_log_probs import token_logits

POSITIONS = 256
"""Positions compared at a time, in float64: 256 x 50,000 words are 100 MB a model."""


def token_divergence(
    reference: nn.Module, ours: nn.Module, split: PreparedSplit, on_rows: Callable[[int], None] = lambda _: None
) -> Float[np.ndarray, " rows"]:
    """Return, for every row, the sum over its supervised tokens of KL(reference || ours), in nats.

    Exact: over the whole vocabulary, not over the words that the rows hold. Both models are in memory and see the same
    batches. Raises ModelError for another vocabulary, or if a result is not finite.
    """
    collate = Collator.of(ours)
    sums, head, done = np.zeros(len(split), np.float64), KINDS[split.kind].head(), 0
    reference.eval()
    ours.eval()
    with torch.inference_mode():
        for rows in batches_of(split):
            sums[rows] = _of_batch(reference, ours, head.answered(split.batch(rows, collate))).cpu().numpy()
            done += len(rows)
            on_rows(done)
    if not np.isfinite(sums).all():
        raise ModelError(f"the divergence is not finite on {int((~np.isfinite(sums)).sum())} of {len(sums)} rows")
    return sums


def _of_batch(reference: nn.Module, ours: nn.Module, batch: Batch) -> Float[Tensor, " rows"]:
    asked = next_tokens(batch) != UNTAUGHT
    terms: list[Tensor] = []
    for theirs, mine in zip(*(token_logits(model, batch, POSITIONS) for model in (reference, ours)), strict=True):
        if theirs.shape != mine.shape:
            raise ModelError(f"a divergence needs one vocabulary; got {theirs.shape[-1]} and {mine.shape[-1]} words")
        terms.append(_kl(theirs, mine))
    rows = torch.zeros(len(asked), dtype=torch.float64, device=asked.device)
    sums = rows.index_add(0, asked.nonzero()[:, 0], torch.cat(terms)) if terms else rows
    return sums.unflatten(0, (len(batch), -1)).sum(1)  # a pair is two sequences


def _kl(theirs: Float[Tensor, "tokens words"], mine: Float[Tensor, "tokens words"]) -> Float[Tensor, " tokens"]:
    p, q = theirs.double().log_softmax(dim=-1), mine.double().log_softmax(dim=-1)
    # A word that the reference rules out (logit -inf) costs nothing; the product would be 0 x inf.
    return torch.where(p == -torch.inf, 0.0, p.exp() * (p - q)).sum(dim=-1)
