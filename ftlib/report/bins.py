"""Bins of a model's answers, with the mean of what it said and of what was true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Bins:
    """The bins that hold anything, in order."""

    said: Float[np.ndarray, " bins"]
    """What the model said, on average: a probability, or a score."""
    true: Float[np.ndarray, " bins"]
    """What was so, on average: how often, or the score."""
    error: Float[np.ndarray, " bins"]
    """Standard error of `true`."""
    held: Int[np.ndarray, " bins"]
    """Answers in the bin."""


def bin_means(
    bins: Int[np.ndarray, " answers"], values: Float[np.ndarray, " answers"], count: int
) -> Float[np.ndarray, " bins"]:
    """Return the mean of the values in each of `count` bins; 0 for an empty one."""
    import numpy as np

    return np.bincount(bins, values, count) / np.bincount(bins, minlength=count).clip(min=1)
