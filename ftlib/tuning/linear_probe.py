"""A new head on frozen features."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftlib.config import Config


class LinearProbe(Config):
    """The head alone, fitted to convergence on features computed once (Kumar et al. 2022, arXiv 2202.10054).

    Minimises mean cross-entropy + `l2` / 2 * ||W||^2 / n by L-BFGS, scikit-learn's LogisticRegression with
    C = 1 / l2. Followed by a full phase it is LP-FT. The phase's optimiser settings other than `l2` do not apply.
    """

    kind: Literal["linear_probe"] = "linear_probe"
    l2: float = Field(default=1.0, ge=0.0)
