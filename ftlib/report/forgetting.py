"""How far the chosen model's answers moved from the reference's on what it should have kept: for the report."""

from __future__ import annotations

from collections.abc import Sequence

from ftlib.config import REPORT
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.kl_to_start import Asked, kl
from ftlib.evaluation.measured import Estimate
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.evidence import Evidence
from ftlib.workspace import Workspace


def divergences(
    evidence: Evidence, work: Workspace, reference: Checkpoint, watched: Sequence[str]
) -> dict[str, Estimate]:
    """Return KL(reference || chosen) on evaluations where both were measured: per row of a classifier, else per token.

    Those whose answers have no such distance are left out.
    """
    recipe, chosen = evidence.recipe, evidence.selection.chosen
    result: dict[str, Estimate] = {}
    theirs, ours = (evidence.measured(name) for name in (reference.phase, chosen.name))
    for name in (name for name in watched if name in theirs and name in ours):
        evaluation = recipe.evaluations[name]
        resampling = Resampling(evaluation.resamples, evaluation.confidence, recipe.seed)
        asked = Asked(name, evidence.prepared[evaluation.dataset], REPORT, resampling, recipe.compute)
        if (moved := kl(asked, work, reference, chosen, theirs[name], ours[name])) is not None:
            result[name] = moved[0]
    return result
