"""What the last phase did to a base model, done to the instruct model of that base."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import Fraction
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, Onto, TwoEnds
from ftlib.merging.methods import Graft as GraftKernel
from ftlib.merging.methods.kernel import SENSIBLE
from ftlib.models.reference import ModelRef


class Graft(TwoEnds):
    """theta_instruct + scale (theta_base_tuned - theta_base) (Shadow-FT, Wu et al. 2025, arXiv 2505.12716).

    The recipe's model is the base, which learns more easily; what it learnt is carried to `onto`, the instruct model of
    that base, which keeps how it talks. An adapter is put over `onto` as it is.
    """

    kind: Literal["graft"] = "graft"
    onto: ModelRef
    """The model that the difference is added to: the same architecture and tokens as the recipe's `model`."""
    scales: tuple[Fraction, ...] = Field(default=(0.5, 1.0), min_length=1)
    """How much of the difference is added; `onto` as it is and the tuned base are always measured beside them."""
    at_most_apart: float = Field(default=SENSIBLE, gt=0.0)
    """The largest sum |base - onto| / (sum |base| + sum |onto|) over all weights; measured before anything is trained.
    Above 0.05 the paper finds no gain."""

    @property
    @override
    def carried_to(self) -> Onto:
        return Onto(self.onto, self.at_most_apart)

    @property
    @override
    def adds_up(self) -> bool:
        return True

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return `onto`, one candidate per scale, ascending, and the tuned base."""
        assert ends.onto is not None
        grafts = [self._graft(ends, scale) for scale in sorted({*self.scales} - {0.0})]
        return (Candidate.of(ends.onto), *grafts, Candidate.of(ends.end))

    @override
    def count(self) -> int:
        return 2 + len({*self.scales} - {0.0})

    @staticmethod
    def _graft(ends: Ends, scale: float) -> Candidate:
        assert ends.onto is not None
        name = f"graft={scale:g}"
        if ends.carried is not None:  # the line from `onto` to the adapter over it
            point = Candidate.between(ends.onto, ends.carried, scale)
            return point.model_copy(update={"name": name})
        merge = GraftKernel(scale=scale)
        return Candidate(name=name, start=ends.start, end=ends.end, siblings=(ends.onto,), merge=merge)
