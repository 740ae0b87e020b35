"""A pull back to where the training started, as strong at each weight as earlier rows need that weight."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import Name
from ftlib.models.parameter_names import in_modules
from ftlib.training.penalties.base import Kept, PenaltyBase, Pull, Start


class EWC(PenaltyBase):
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): strength/2 * sum F (w - w0)^2.

    w are the trained weights, w0 what they were before step 0, F the diagonal of the Fisher information there: the mean
    over rows of the square of each row's gradient of log p(y | row), with y drawn from the model. Several datasets' F
    are added up, which is the sum of their penalties. A fresh head, which no earlier row needs, is left alone.
    """

    kind: Literal["ewc"]
    strength: float = Field(default=1000.0, ge=0.0)
    """The paper's lambda: how much earlier rows weigh against this phase's. Against a mean loss and a mean F, so it is
    about how many times as important a row of theirs is."""
    datasets: tuple[Name, ...] = ()
    """The datasets whose training rows F is measured on where the phase starts: those that are to be kept. None: the
    base model carries its own (`publish.fisher`), and the first phase, which starts there, reads it."""
    rows: int = Field(default=1000, gt=0)
    """How many rows of each dataset at most, drawn by the recipe's seed; a pass forward and back for every one."""

    copies: ClassVar[int] = 2

    @property
    @override
    def keeps(self) -> Kept | None:
        return Kept(self.datasets, self.rows)

    def start(self, at: Start) -> Pull:
        """Copy the weights before step 0, and read this rank's part of F."""
        from ftlib.training.fisher.parts import read_parts
        from ftlib.training.penalties.quadratic import Quadratic

        assert at.fisher is not None
        trained = {name: p for name, p in at.model.named_parameters() if p.requires_grad}
        kept = {name: p for name, p in trained.items() if not in_modules(name, at.fresh)}
        weighed = read_parts(at.fisher, kept) if self.strength else {}
        return Quadratic([(kept[name], of.mul_(self.strength), True) for name, of in weighed.items()])
