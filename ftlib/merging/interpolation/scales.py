"""Task-vector methods tried at several scales."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Score, WithSiblings
from ftlib.merging.methods import Merge
from ftlib.models.checkpoint import Checkpoint


class Scales(WithSiblings, ABC):
    """theta0 + scale * tau; what tau is made of is the method's."""

    least: ClassVar[int] = 0

    scales: tuple[float, ...] = Field(default=(0.5, 1.0), min_length=1)
    """Above 1 beyond the fine-tunes, below 0 away from them."""

    @abstractmethod
    def merge(self, scale: float) -> Merge:
        """Return the method at one scale."""

    def points(
        self, start: Checkpoint, end: Checkpoint, siblings: tuple[Checkpoint, ...], scores: Mapping[str, Score]
    ) -> tuple[Candidate, ...]:
        """Return theta0, one candidate per scale, ascending, and theta1."""
        del scores
        scaled = [
            Candidate(name=f"scale={scale:g}", start=start, end=end, siblings=siblings, merge=self.merge(scale))
            for scale in sorted({*self.scales} - {0.0})
        ]
        return (Candidate.of(start), *scaled, Candidate.of(end))

    def count(self) -> int:
        """Return how many candidates there will be."""
        return 2 + len({*self.scales} - {0.0})
