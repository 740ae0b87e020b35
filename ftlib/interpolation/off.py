"""No interpolation: the last phase's end is the only candidate."""

from __future__ import annotations

from typing import Literal

from ftlib.artifacts import Candidate, Checkpoint
from ftlib.config import Config


class Off(Config):
    """Only the last phase's end is a candidate."""

    kind: Literal["off"] = "off"

    def points(self, start: Checkpoint, end: Checkpoint) -> tuple[Candidate, ...]:
        """Return the end, as it is."""
        del start
        return (Candidate.of(end),)
