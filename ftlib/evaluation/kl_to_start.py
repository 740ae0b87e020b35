"""How far answers moved from another checkpoint's on one split: KL(reference || ours), without any label.

What a fine-tune forgets of everything else follows this number on the rows of its own task (Shenfeld, Pari & Agrawal
2025, arXiv 2509.04259, "RL's Razor"), which is what a budget of it in `select` is for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import DataError, StorageError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.measured import KL_TO_START, Estimate, Measured, tables_in
from ftlib.evaluation.results import divergence, divergence_per_token
from ftlib.fingerprint import digest
from ftlib.kinds.outcomes import LabelOutcomes, Outcomes
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import emit
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace, exclusive, write_durably

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

VERSION = 1
"""Raised when the comparison changes; kept results of another version are not read."""


@dataclass(frozen=True)
class Asked:
    """The rows that two models are compared on, and how."""

    name: str
    """The evaluation's, for signs of life and errors."""
    data: PreparedDataset
    split: Split
    resampling: Resampling
    compute: Compute


def kl(
    asked: Asked, work: Workspace, reference: Checkpoint, ours: Candidate, before: Measured, after: Measured
) -> tuple[Estimate, Float[np.ndarray, " resamples"]] | None:
    """Return KL(reference || ours), per row of a classifier and else per token, with its resamples.

    None for a kind of answers that has no such distance. A classifier's is read from tables, `before` and `after`. A
    language model's is a pass with both models in memory, which is kept: it is made once per (weights, weights, rows).
    """
    theirs, mine = (tables_in(work)(cell) for cell in (before, after))
    if mine.diverges_by == "row":
        return divergence(cast(LabelOutcomes, theirs), cast(LabelOutcomes, mine), asked.resampling)
    if mine.diverges_by == "token":
        return divergence_per_token(
            _token_sums(asked, work, reference, ours, mine), mine.answer_tokens, asked.resampling
        )
    return None


def _token_sums(
    asked: Asked, work: Workspace, reference: Checkpoint, ours: Candidate, table: Outcomes
) -> Float[np.ndarray, " rows"]:
    """Return each row's divergence, from the file where it was computed before."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    if ours.digest() == reference.digest():
        return np.zeros(len(table))
    key = digest([VERSION, reference.digest(), ours.digest(), asked.data.digest(), asked.split])
    name = f"divergences/{key[:32]}.parquet"
    with exclusive((work.root / name).with_suffix(".lock"), wait=True):
        if not (file := work.shared(name)).exists():
            buffer = io.BytesIO()
            pq.write_table(pa.table({"divergence": _compared(asked, reference, ours)}), buffer)
            write_durably(file, buffer.getvalue())
            work.share(name)
    try:
        sums = pq.read_table(file)["divergence"].to_numpy()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise StorageError(f"{file} is damaged ({type(error).__name__}); delete it and run again") from error
    if len(sums) != len(table):
        raise DataError(
            f"{asked.name}/{KL_TO_START}: {len(sums)} prepared rows against {len(table)} answers; rows that are cut "
            "into several have no divergence"
        )
    return sums


def _compared(asked: Asked, reference: Checkpoint, ours: Candidate) -> Float[np.ndarray, " rows"]:
    from ftlib.evaluation.divergence import token_divergence
    from ftlib.evaluation.forward_pass import resources
    from ftlib.kinds.loading import load
    from ftlib.kinds.open_split import open_split
    from ftlib.merging.in_memory import model_of

    split = open_split(split_file(asked.data.path, asked.split), ())
    with resources(asked.compute) as device:
        mine = model_of(ours, asked.data.kind).to(device)
        theirs = load(reference, asked.data.kind).to(device)
        what = f"compare {asked.name}, {ours.name}"
        return token_divergence(theirs, mine, split, lambda done: emit(what, done, len(split), "rows"))


def predicted(alphas: Sequence[float], end: float) -> tuple[float, ...]:
    """Return what KL to the start is expected at each alpha, of that at alpha 1: its square's share.

    Near the start KL is half the squared step in units of the Fisher information, so it grows with alpha squared.
    """
    return tuple(alpha * alpha * end for alpha in alphas)
