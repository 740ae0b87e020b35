"""No interpolation: the last phase's end is the only candidate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Score, TwoEnds
from ftlib.models.checkpoint import Checkpoint


class Off(TwoEnds):
    """Only the last phase's end is a candidate."""

    kind: Literal["off"] = "off"

    def points(
        self, start: Checkpoint, end: Checkpoint, siblings: tuple[Checkpoint, ...], scores: Mapping[str, Score]
    ) -> tuple[Candidate, ...]:
        """Return the end, as it is."""
        del start, siblings, scores
        return (Candidate.of(end),)

    def count(self) -> int:
        """Return how many candidates there will be."""
        return 1
