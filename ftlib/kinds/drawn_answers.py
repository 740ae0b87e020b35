"""Answers drawn from a model's own distribution, and their log-probability: what its Fisher information is made of.

The random numbers come from outside, so that a draw is the same on every device and in a backward pass that computes
it again.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def uniforms(random: np.random.Generator, count: int, device: torch.device) -> Float[Tensor, " count"]:
    """Return that many numbers between 0 and 1, in float64."""
    return torch.from_numpy(random.random(count)).to(device)


def drawn(logits: Float[Tensor, "answers words"], at: Float[Tensor, " answers"]) -> Int[Tensor, " answers"]:
    """Return one word an answer, drawn by the softmax of its logits: the first whose cumulative share is above `at`."""
    with torch.no_grad():
        shares = logits.double().softmax(dim=-1).cumsum(dim=-1)
        return (shares <= at[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)


def drawn_log_probs(logits: Float[Tensor, "answers words"], at: Float[Tensor, " answers"]) -> Float[Tensor, " answers"]:
    """Return the log-probability of the words that are `drawn`, in float32; gradients reach the logits alone."""
    return -cross_entropy(logits.float(), drawn(logits, at), reduction="none")
