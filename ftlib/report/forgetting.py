"""How far the chosen model's answers moved from the reference's on what it should have kept: for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ftlib.config import REPORT
from ftlib.data.prepared import split_file
from ftlib.errors import StorageError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.measured import Estimate, tables_in
from ftlib.evaluation.results import divergence, divergence_per_token
from ftlib.fingerprint import digest
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import emit
from ftlib.recipe.evidence import Evidence
from ftlib.workspace import Workspace, exclusive, write_durably

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

VERSION = 1
"""Raised when the comparison changes; kept results of another version are not read."""


def divergences(
    evidence: Evidence, work: Workspace, reference: Checkpoint, watched: Sequence[str]
) -> dict[str, Estimate]:
    """Return KL(reference || chosen) on evaluations where both were measured: per row of a classifier, else per token.

    A classifier's is read from tables. A language model's is a pass with both models in memory, which is kept: it is
    made once per (weights, weights, rows), like outcomes.
    """
    result: dict[str, Estimate] = {}
    theirs, ours = (evidence.measured(name) for name in (reference.phase, evidence.selection.chosen.name))
    for name in (name for name in watched if name in theirs and name in ours):
        evaluation = evidence.recipe.evaluations[name]
        resampling = Resampling(evaluation.resamples, evaluation.confidence, evidence.recipe.seed)
        before, after = (tables_in(work.root)(cells[name]) for cells in (theirs, ours))
        if after.diverges_by == "row":
            result[name] = divergence(cast(LabelOutcomes, before), cast(LabelOutcomes, after), resampling)
        elif after.diverges_by == "token":
            sums = _token_sums(evidence, work, reference, name)
            result[name] = divergence_per_token(sums, after.answer_tokens, resampling)
    return result


def _token_sums(evidence: Evidence, work: Workspace, reference: Checkpoint, name: str) -> Float[np.ndarray, " rows"]:
    """Return each row's divergence, from the file where it was computed before."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = evidence.prepared[evidence.recipe.evaluations[name].dataset]
    key = digest([VERSION, reference.digest(), evidence.selection.chosen.digest(), data.digest(), REPORT])
    file = work.root / "divergences" / f"{key[:32]}.parquet"
    with exclusive(file.with_suffix(".lock"), wait=True):
        if not file.exists():
            buffer = io.BytesIO()
            pq.write_table(pa.table({"divergence": _compared(evidence, reference, name)}), buffer)
            write_durably(file, buffer.getvalue())
    try:
        return pq.read_table(file)["divergence"].to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StorageError(f"{file} is damaged ({type(error).__name__}); delete it and run again") from error


def _compared(evidence: Evidence, reference: Checkpoint, name: str) -> Float[np.ndarray, " rows"]:
    from ftlib.evaluation.divergence import token_divergence
    from ftlib.evaluation.forward_pass import resources
    from ftlib.kinds.loading import load
    from ftlib.kinds.open_split import open_split
    from ftlib.merging.in_memory import model_of

    data, chosen = evidence.prepared[evidence.recipe.evaluations[name].dataset], evidence.selection.chosen
    split = open_split(split_file(data.path, REPORT), ())
    with resources(evidence.recipe.compute) as device:
        ours = model_of(chosen, data.kind)
        theirs = load(reference, data.kind).to(device)
        return token_divergence(
            theirs, ours.to(device), split, lambda done: emit(f"compare {name}", done, len(split), "rows")
        )
