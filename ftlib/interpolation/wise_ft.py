"""Weight-space ensembles for fine-tuning."""

from __future__ import annotations

from typing import Literal

from ftlib.artifacts import Candidate, Checkpoint
from ftlib.config import Config, Fraction


class WiseFT(Config):
    """theta_alpha = (1 - alpha) theta0 + alpha theta1 (Wortsman et al. 2022, arXiv 2109.01903).

    theta0 is the exact start of the last phase, head included; theta1 its end.
    """

    kind: Literal["wise_ft"] = "wise_ft"
    alphas: tuple[Fraction, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)

    def points(self, start: Checkpoint, end: Checkpoint) -> tuple[Candidate, ...]:
        """Return one candidate per alpha, ascending and distinct.

        The ends are always among them, listed or not: what an interpolation is worth is measured against them, and
        `constrained` selection needs them.
        """
        alphas = sorted({0.0, *self.alphas, 1.0})
        return tuple(Candidate(name=f"alpha={alpha:g}", start=start, end=end, alpha=alpha) for alpha in alphas)
