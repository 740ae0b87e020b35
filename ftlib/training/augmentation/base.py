"""What all augmentations have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from ftlib.config import Config

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, UInt8

    from ftlib.kinds.augment import Augment

_SALT = 0xA06
"""Keeps the seeds of augmentation apart from those of batches and steps."""


class AugmentationBase(Config, ABC):
    """Changes what a model sees of its training rows; labels stay, and all that is measured sees rows as they are."""

    changes: ClassVar[Literal["text", "images"]]
    """The modality of the rows that it can change."""
    package: ClassVar[str | None] = None
    """The module that must be installed."""
    takes_boxes_along: ClassVar[bool] = False
    """Whether it moves pixels only as `mirrors` says, so that boxes can be moved with them."""

    def of(self, seed: int, epoch: int, part: int) -> Augment:
        """Return what changes the rows of one part in one pass over them: a pure function of these and of the row.

        So neither the split of a batch, nor workers, nor a resumed run changes what is drawn. Raises RecipeError where
        the package is not installed.
        """
        import numpy as np

        from ftlib.kinds.augment import Augment

        def drawn(row: int) -> int:
            state = np.random.SeedSequence([seed, epoch, part, row, _SALT]).generate_state(1, np.uint64)[0]
            return int(state >> np.uint64(1))

        return Augment(self.change(), self.mirrors, drawn)

    def mirrors(self, drawn: int) -> bool:
        """Say whether boxes go to the other side with the pixels, by a seed."""
        return False

    @abstractmethod
    def change(self) -> Callable[[UInt8[np.ndarray, "3 height width"], int], Float[np.ndarray, "3 height width"]]:
        """Return the function of pixels and a seed."""
