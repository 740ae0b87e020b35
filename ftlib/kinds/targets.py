"""What the rows of a split are taught, as tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor

from ftlib.kinds.draws import Draw


class Targets(ABC):
    """What the rows of a split are taught."""

    @abstractmethod
    def tensor(
        self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]
    ) -> Tensor | None:
        """Return the targets of these rows on the CPU; `lengths` are their tokens. None: the tokens are the targets."""

    def mirrored(self, targets: Tensor, which: Sequence[bool]) -> Tensor:
        """Return the targets of images of which some were mirrored; most say nothing of places, and stay."""
        return targets

    def drawn(self, draw: Draw) -> Targets:
        """Return what they are under another draw; most draw nothing, and are themselves."""
        return self

    def read(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> list[Int[np.ndarray, " tokens"]] | None:
        """Return what the model reads instead of these rows' tokens. None: their own tokens."""
        return None

    def terms(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> Int[np.ndarray, " rows"] | None:
        """Return the terms of each row's loss under this draw. None: what the format counted."""
        return None

    def sizes(self) -> Int[np.ndarray, " split"] | None:
        """Return what every row of the split costs, where it is read as several sequences. None: its tokens."""
        return None

    def segments(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> list[list[int]] | None:
        """Return these rows' `token_type_ids`, if they have any."""
        return None
