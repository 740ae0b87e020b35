"""Which checkpoints a method takes: the last phase's two ends, or more fine-tunes of the same start beside them."""

from __future__ import annotations

from typing import ClassVar

from ftlib.config import Config


class Score(Config):
    """What `select.by`, and `plus`, say of one candidate so far."""

    weights: str
    """The candidate's digest."""
    value: float
    """Higher is better."""
    error: float = 0.0
    """One standard error of its paired difference from the best so far: less than this cannot be told apart."""


class TwoEnds(Config):
    """theta0 and theta1 alone."""

    seeds: ClassVar[tuple[int, ...]] = ()
    siblings: ClassVar[tuple[str, ...]] = ()
    least: ClassVar[int] = 0
    """Siblings it cannot do without."""

    @property
    def adaptive(self) -> bool:
        """Say whether what was measured of its points gives it more points."""
        return False

    def patterns(self) -> tuple[str, ...]:
        """Return the tensor patterns that the recipe names; each must fit a tensor."""
        return ()


class WithSiblings(Config):
    """theta0, theta1 and more checkpoints that were trained from the very same theta0."""

    least: ClassVar[int] = 1

    seeds: tuple[int, ...] = ()
    """The last phase is trained again with each of these: another order of rows, other dropout, the same start."""
    siblings: tuple[str, ...] = ()
    """Checkpoints that are there already: folders of a work folder's train stage, or versions `name@3` of the registry
    that the recipe publishes to."""

    @property
    def adaptive(self) -> bool:
        """Say whether what was measured of its points gives it more points."""
        return False

    def patterns(self) -> tuple[str, ...]:
        """Return the tensor patterns that the recipe names; each must fit a tensor."""
        return ()
