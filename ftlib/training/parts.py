"""A phase's parts as they are read: each with the labels of its task."""

from __future__ import annotations

from collections.abc import Sequence

from ftlib.config import Split
from ftlib.data.prepared import split_file
from ftlib.kinds.open_split import open_split, open_splits
from ftlib.kinds.split import PreparedSplit
from ftlib.storage.node_cache import local_path
from ftlib.training.plan import Part, Plan


def open_part(plan: Plan, part: Part, split: Split) -> PreparedSplit:
    """Open one split of a part. Raises DataError for a label that the model, or its task, does not have."""
    return open_split(split_file(local_path(part.folder), split), plan.start.of_task(part.task).labels, part.task)


def drawn_from(plan: Plan, parts: Sequence[PreparedSplit] | None = None, times: int = 1) -> list[PreparedSplit]:
    """Return what global batches take their rows of: each part's training rows, or all of them as one split.

    `parts` are these rows where they are open. Parts that are mixed by row are of one task; all their rows are there so
    many `times`, in the same memory. Raises DataError as `open_part`.
    """
    if not plan.phase.mixes_rows:
        return [open_part(plan, part, "train") for part in plan.parts] if parts is None else [*parts]
    files, task = [split_file(local_path(part.folder), "train") for part in plan.parts], plan.parts[0].task
    return [open_splits(files * times, plan.start.of_task(task).labels, task)]
