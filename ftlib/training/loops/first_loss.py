"""The first loss of a policy that is compared with what it starts from: it is known before it is computed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from ftlib.errors import TrainingError
from ftlib.training.plan import Plan

TOLERANCES: Mapping[Literal["fp32", "bf16"], float] = MappingProxyType({"fp32": 1e-3, "bf16": 0.05})
"""How far it may be off. The score and the step pad a row to other widths, so their sums are rounded otherwise, of
which a loss sees beta / 2. SmolLM2-135M in bf16, with 8 pairs of 250 tokens and a beta of 0.1, was off by 1e-3."""


def check_first_loss(plan: Plan, loss: float) -> None:
    """Raise TrainingError where the first loss is not what the objective says it must be.

    Only where what scored the rows is what the phase starts from, and where the tuning leaves that as it is until the
    first step.
    """
    objective = plan.phase.objective
    expected: float | None = getattr(objective, "first_loss", None)
    scored = {*getattr(objective, "scores", ())} <= {*plan.scored_by_start}
    if expected is None or not scored or not plan.phase.tuning.starts_as_given:
        return
    tolerance = TOLERANCES[plan.precision]
    if abs(loss - expected) > tolerance:
        raise TrainingError(
            f"phase {plan.phase.name}: the first loss of {objective.kind!r} is {loss:.6f}, and {expected:.6f} "
            f"(± {tolerance:g} in {plan.precision}) where the reference is what the phase starts from: the rows were "
            "scored by another model or in another way than it is trained; train in fp32, and if that is the same, "
            "report it"
        )
