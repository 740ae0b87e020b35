"""What the rows of a split are taught, as tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor


class Targets(ABC):
    """What the rows of a split are taught."""

    @abstractmethod
    def tensor(
        self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]
    ) -> Tensor | None:
        """Return the targets of these rows on the CPU; `lengths` are their tokens. None: the tokens are the targets."""

    def segments(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> list[list[int]] | None:
        """Return these rows' `token_type_ids`, if they have any."""
        return None
