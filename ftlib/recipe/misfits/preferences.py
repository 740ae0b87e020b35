"""What would part a policy from the reference that its rows were scored by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ftlib.training.objectives import Objective
from ftlib.training.phase import Phase


def reference_misfits(where: str, phase: Phase, objectives: Iterable[Objective]) -> Iterator[str]:
    """Say what a phase asks for that what scored its rows, or drew its answers, did not have."""
    for objective in objectives:
        if getattr(objective, "drops_out", True):
            continue
        writes = getattr(objective, "writes", False)
        why = (
            "learns from answers that are drawn without dropout"
            if writes
            else "compares answers with a reference's, which were given without dropout"
        )
        dropout: float = getattr(phase.tuning, "dropout", 0.0)
        for field, rate in (("dropout", phase.dropout), ("tuning.dropout", dropout)):
            if rate:
                yield f"{where}.{field}: {rate:g}, but {objective.kind!r} {why}; remove it"
        if phase.self_kl and not writes:
            yield f"{where}.self_kl: {phase.self_kl:g}, but {objective.kind!r} has a reference to stay near; remove it"
