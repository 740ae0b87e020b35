"""No interpolation: the last phase's end is the only candidate."""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import override

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, TwoEnds


class Off(TwoEnds):
    """Only the last phase's end is a candidate."""

    kind: Literal["off"] = "off"

    mixes: ClassVar[bool] = False

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return the end, as it is."""
        return (Candidate.of(ends.end),)

    @override
    def count(self) -> int:
        return 1
