"""A new head on frozen features."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.models.checkpoint import Form
from ftlib.training.tuning.base import Facts, Problem, TuningBase, number_or_auto

if TYPE_CHECKING:
    from torch import nn


class LinearProbe(TuningBase):
    """The head's last linear layer alone, fitted to convergence on features computed once (LP of LP-FT).

    Minimises the summed cross-entropy + l2 / 2 * ||W||^2 by L-BFGS: scikit-learn's LogisticRegression with
    C = 1 / l2; of pairs that of the differences of their two texts' features, without an intercept. Kumar et al. 2022,
    arXiv 2202.10054. Followed by another phase it is LP-FT. The phase's optimiser does not apply.
    """

    kind: Literal["linear_probe"] = "linear_probe"
    l2: Annotated[Annotated[float, Field(ge=0.0)] | Literal["auto"], number_or_auto(zero=True)] = "auto"
    """auto: the value of `PATH` with the lowest loss on the dataset's validation rows; `USUAL` where there are none."""

    PATH: ClassVar[tuple[float, ...]] = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    """From strong to weak, so that each fit starts near the one before; it ends after two that are no better."""
    USUAL: ClassVar[float] = 1.0

    layer_decay: ClassVar[float] = 1.0
    fits: ClassVar[frozenset[BatchKind] | None] = frozenset({"labeled", "compared"})
    takes_steps: ClassVar[bool] = False
    moves_head_only: ClassVar[bool] = True

    @property
    @override
    def leaves(self) -> Form | None:
        """The form that it starts from: an adapter brings the head."""
        return None

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Freeze everything: the head is not trained by gradient steps, it is solved for."""
        return model.requires_grad_(False)

    @override
    def solve(self, problem: Problem) -> Facts:
        """Fit the head's last layer. Raises TrainingError if a label has no training row."""
        from ftlib.training.solved.linear_probe_fit import fit_probe

        return fit_probe(problem, self.l2, self.PATH, self.USUAL)

    @override
    def solved(self, hidden: int, outputs: int) -> int:
        return outputs * (hidden + 1)

    @override
    def solution(self, facts: Mapping[str, float | int | str]) -> str:
        on = f", chosen on {facts['l2_chosen_on']}" if "l2_chosen_on" in facts else ""
        return f"the head alone, on frozen features; l2 {facts.get('l2', '–')}{on}"
