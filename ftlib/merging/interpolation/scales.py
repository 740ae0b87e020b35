"""The base of interpolations that try a task-vector method at several scales."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from pydantic import Field
from typing_extensions import override

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, WithSiblings
from ftlib.merging.methods import Merge


class Scales(WithSiblings, ABC):
    """theta0 + scale * tau; what tau is made of is the method's."""

    least: ClassVar[int] = 0

    scales: tuple[float, ...] = Field(default=(0.5, 1.0), min_length=1)
    """Above 1 beyond the fine-tunes, below 0 away from them."""

    @abstractmethod
    def merge(self, scale: float) -> Merge:
        """Return the method at one scale."""

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return theta0, one candidate per scale, ascending, and theta1."""
        scaled = [
            Candidate(
                name=f"scale={scale:g}",
                start=ends.start,
                end=ends.end,
                siblings=ends.siblings,
                merge=self.merge(scale),
            )
            for scale in sorted({*self.scales} - {0.0})
        ]
        return (Candidate.of(ends.start), *scaled, Candidate.of(ends.end))

    @override
    def count(self) -> int:
        return 2 + len({*self.scales} - {0.0})
