"""Which fields mattered: the share of a metric's variance over trials that each explains (fANOVA)."""

from __future__ import annotations

from collections.abc import Sequence

from ftlib.search.proposals import as_told
from ftlib.search.search import Search
from ftlib.search.trial import Trial

LEAST = 5
"""Measured trials below which nothing is said."""
FEW = 30
"""Measured trials below which what is said comes with a caution."""


def importances(search: Search, trials: Sequence[Trial], *, maximize: bool) -> dict[str, float]:
    """Return each field's share, the largest first (Hutter et al. 2014); together they are 1.

    Empty where there is one field, or too few measured trials, or all of them came to the same.
    """
    done = [trial for trial in trials if trial.outcome.state == "done"]
    if len(done) < LEAST or len(search.space) < 2 or len({trial.measured for trial in done}) < 2:
        return {}
    import optuna

    study = optuna.create_study(direction="maximize" if maximize else "minimize")
    for trial in done:
        study.add_trial(as_told(search, trial, maximize=maximize))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=search.seed & 0xFFFFFFFF)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {path: float(share) for path, share in found.items()}
