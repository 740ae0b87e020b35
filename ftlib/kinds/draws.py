"""What is drawn of a row anew in every epoch, as which of its words are masked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Draw:
    """One draw of every row: a pure function of the seed, the epoch and the row's place, and of nothing before it.

    So a resumed run, another number of workers and another split of a batch see the same.
    """

    seed: int
    epoch: int
    """How often all rows of the part were seen before."""
    part: int = 0
    """Which of a phase's datasets the rows are of."""

    def of(self, row: int) -> np.random.Generator:
        """Return where a row's numbers come from, from their beginning."""
        return np.random.default_rng([self.seed, self.epoch, self.part, row])


MEASURED = Draw(0, 0)
"""The draw of all that is measured: candidates, and every evaluation while one trains, are asked the same."""
