"""Checkpoints held against what is recorded of the weights that they were trained from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ftlib.config import Config
from ftlib.errors import ModelError
from ftlib.merging.methods import Kernel
from ftlib.models.adapter import read_base
from ftlib.models.checkpoint import BASE, Checkpoint, adapter_in, model_in
from ftlib.models.folder import files_digest, is_adapter, weights_digest
from ftlib.models.vocabulary import check_same_labels
from ftlib.registry.versions import MANIFEST
from ftlib.workspace import RECORD, read_record

MERGE_RECORD = "merge.json"
"""What a folder was merged from, where no registry says it."""


class Recorded(Config):
    """A checkpoint's own digest and its parent's."""

    weights: str
    parent: str | None
    fresh_head: bool = False


def recorded(folder: Path) -> Recorded | None:
    """Read the record of a stage's `model/` or `adapter/`, or a pulled version's manifest; None where neither is."""
    if folder in (model_in(folder.parent), adapter_in(folder.parent)) and (folder.parent / RECORD).is_file():
        checkpoint = read_record(folder.parent, Checkpoint)
        return checkpoint and Recorded(
            weights=checkpoint.weights, parent=checkpoint.parent, fresh_head=checkpoint.fresh_head
        )
    if (folder / MANIFEST).is_file():
        try:
            weights = json.loads((folder / MANIFEST).read_bytes())["lineage"]["weights"]
            return Recorded(weights=weights["published"], parent=weights["start"])
        except (ValueError, KeyError, TypeError):
            return None  # of another program, or a version from before weights were recorded
    return None


def check_lineage(start: Checkpoint, tuned: Sequence[Checkpoint]) -> None:
    """Check by their records that checkpoints were trained from the exact weights `start`, whose head is no noise.

    Raises ModelError that names what differs: the start, labels, tokenizers, or a random head.
    """
    theta0 = start.parent if start.snapshot else start.weights  # of a phase's way, which goes on to its end
    for end in tuned:
        _check_start(end.phase, end.parent, theta0, repr(start.phase))
        check_same_labels(start.labels, end.labels, (start.phase, end.phase))
        if start.tokenizer != end.tokenizer:
            raise ModelError(
                f"{start.phase!r} and {end.phase!r} have different tokenizers or image processors, so that equal "
                "weights mean something else; give checkpoints that read the same inputs"
            )
    _check_head(start.phase, fresh=start.fresh_head)


def check_recorded(kernel: Kernel, folders: Sequence[tuple[str, Path]]) -> bool:
    """Refuse folders that are recorded not to belong together. Returns whether all of it was recorded.

    An adapter that names the very base by its digest belongs to it, whatever phases came between. Raises ModelError if
    theta1 was trained from other weights than theta0, a soup's ingredients from different
    weights, or theta0 still has its random head.
    """
    records = [(name, recorded(folder)) for name, folder in folders]
    if kernel.starts:
        (start_name, start), tuned = records[0], records[1 : len(records) - kernel.strangers]
        if start is None and any(record and record.parent for _, record in tuned):
            # A fine-tune on record names its start; hashing a folder is what finding out takes.
            start = Recorded(weights=weights_digest(folders[0][1]), parent=None)
        theta0, called = start and start.weights, repr(start_name)
    else:
        (start_name, start), tuned = next((each for each in records if each[1]), records[0]), records
        theta0, called = start and start.parent, f"the weights that {start_name!r} was trained from"
    if start:
        _check_head(start_name, fresh=start.fresh_head)
        over = {name for name, folder in folders[1:] if kernel.starts and _is_over(folder, folders[0][1])}
        for name, record in tuned:
            if record and name not in over:
                _check_start(name, record.parent, theta0, called)
    return start is not None and all(record is not None for _, record in tuned)


def _is_over(folder: Path, base: Path) -> bool:
    """Say whether a folder is an adapter over exactly that base, though it was trained from the base with a head."""
    if not (is_adapter(folder) and (folder / BASE).is_file()) or is_adapter(base):
        return False
    return read_base(folder).weights == files_digest(base)


def _check_start(name: str, parent: str | None, theta0: str | None, called: str) -> None:
    if parent != theta0:
        raise ModelError(
            f"{name!r} was not trained from {called}: its start has digest {(parent or 'none')[:12]}, got "
            f"{(theta0 or 'none')[:12]}; only checkpoints of one start lie in one basin: give the exact weights it "
            "started from as theta0"
        )


def _check_head(name: str, *, fresh: bool) -> None:
    if fresh:
        raise ModelError(
            f"{name!r} still has the random head it was made with, and a line from it means nothing; "
            "put a linear_probe phase before the one to interpolate (LP-FT)"
        )
