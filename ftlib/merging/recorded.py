"""What is recorded beside a model folder of what its weights were trained from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ftlib.config import Config
from ftlib.errors import ModelError
from ftlib.merging.methods import Kernel
from ftlib.models.checkpoint import Checkpoint, adapter_in, model_in
from ftlib.models.folder import weights_digest
from ftlib.registry.versions import MANIFEST
from ftlib.workspace import RECORD, read_record


class Recorded(Config):
    """A checkpoint's own digest and its parent's."""

    weights: str
    parent: str | None
    fresh_head: bool = False


def recorded(folder: Path) -> Recorded | None:
    """Read the record of a stage's `model/` or `adapter/`, or a pulled version's manifest; None where neither is."""
    if folder in (model_in(folder.parent), adapter_in(folder.parent)) and (folder.parent / RECORD).is_file():
        found = read_record(folder.parent, Checkpoint)
        return found and Recorded(weights=found.weights, parent=found.parent, fresh_head=found.fresh_head)
    if (folder / MANIFEST).is_file():
        try:
            weights = json.loads((folder / MANIFEST).read_bytes())["lineage"]["weights"]
            return Recorded(weights=weights["published"], parent=weights["start"])
        except (ValueError, KeyError, TypeError):
            return None  # of another program, or a version from before weights were recorded
    return None


def check_recorded(kernel: Kernel, folders: Sequence[tuple[str, Path]]) -> bool:
    """Refuse checkpoints that are recorded not to belong together. Returns whether all of it was recorded.

    Raises ModelError if theta1 was trained from other weights than theta0, a soup's ingredients from different
    weights, or theta0 still has its random head.
    """
    known = [(name, recorded(folder)) for name, folder in folders]
    if not kernel.starts:
        tuned, (start_name, start) = known, next((each for each in known if each[1]), known[0])
    else:
        tuned, (start_name, start) = known[1:], known[0]
        if start is None and any(record and record.parent for _, record in tuned):
            # A fine-tune on record names its start; hashing a folder is what finding out takes.
            start = Recorded(weights=weights_digest(folders[0][1]), parent=None)
    if start and start.fresh_head:
        raise ModelError(f"{start_name!r} still has the random head it was made with; a line from it means nothing")
    theta0 = start and (start.weights if kernel.starts else start.parent)
    for name, record in tuned:
        if start and record and record.parent != theta0:
            raise ModelError(
                f"{name!r} was trained from weights {(record.parent or 'none')[:12]}, not from {start_name!r}'s "
                f"{(theta0 or 'none')[:12]}: only checkpoints of one start lie in one basin; "
                "give the weights it started from as A"
            )
    return start is not None and all(record is not None for _, record in tuned)
