"""Find siblings: checkpoints of other runs, with the record of what they were trained from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from ftlib.config import user_path
from ftlib.errors import ModelError
from ftlib.models.adapter import Bases, find_base
from ftlib.models.checkpoint import Checkpoint, model_in
from ftlib.models.folder import config_digest, read_config
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest
from ftlib.storage.node_cache import is_output, local_path
from ftlib.workspace import RECORD, read_record


def find_sibling(spec: str, registry: ModelRegistry, cache: Path) -> Checkpoint:
    """Find a checkpoint of any form by a folder of the train stage, or by `name@3`, which is pulled to `cache`.

    Raises ModelError for a folder without a record, an adapter whose base is not there, or a version that does not say
    what it was trained from; StorageError if there is no such version.
    """
    # The record stands in a bucket's output whatever part of it is fetched.
    folder = local_path(f"{spec.rstrip('/')}/{model_in(Path())}").parent if is_output(spec) else user_path(spec)
    if folder.is_dir():
        checkpoint = read_record(folder, Checkpoint)
        if checkpoint is None:
            raise ModelError(f"{spec} has no {RECORD}; give a folder under stages/train of a work folder")
        if is_output(spec):
            checkpoint = checkpoint.model_copy(update={"uri": spec.rstrip("/")})
        return _over_its_base(checkpoint, registry, cache)
    if not re.fullmatch(r"[^@]+@[0-9]+", spec):  # an alias moves, and with it what the same recipe means
        raise ModelError(f"sibling {spec!r} is no folder; give a folder of the train stage, or a version as name@3")
    version = registry.resolve(spec)
    target = cache / version.manifest
    manifest = registry.manifest(version)
    registry.pull(version, model_in(target))
    return _over_its_base(_of_version(str(version), manifest, target), registry, cache)


def named_apart(found: Sequence[Checkpoint], last: str) -> list[Checkpoint]:
    """Name ends of one phase, trained with other settings, by their weights too; `last` names the end beside them."""
    names = [last, *(one.phase for one in found)]
    return [
        one.model_copy(update={"phase": f"{one.phase}-{one.weights[:8]}"}) if names.count(one.phase) > 1 else one
        for one in found
    ]


def _over_its_base(checkpoint: Checkpoint, registry: ModelRegistry, cache: Path) -> Checkpoint:
    if checkpoint.form == "dense":
        return checkpoint
    base = find_base(checkpoint.folder, Bases(version=lambda spec: registry.folder_of(spec, cache)))
    return checkpoint.model_copy(update={"base": base})


def _of_version(name: str, manifest: Manifest, folder: Path) -> Checkpoint:
    """Return a pulled version as the checkpoint that its lineage records. Raises ModelError if it records none."""
    lineage = cast("dict[str, Any]", manifest.lineage)
    try:
        weights, parent, tokenizer = (
            lineage["weights"]["published"],
            lineage["weights"]["start"],
            lineage["base_model"]["tokenizer"],
        )
    except (KeyError, TypeError) as error:
        raise ModelError(f"{name} does not say what it was trained from ({error}); publish it again") from error
    labels = read_config(model_in(folder)).get("id2label") or {}
    return Checkpoint(
        uri=str(folder.absolute()),
        weights=weights,
        parent=parent,
        tokenizer=tokenizer,
        config=config_digest(model_in(folder)),
        phase=name,
        fresh_head=False,
        labels=tuple(labels[key] for key in sorted(labels, key=int)),
        parameters=0,
        trained_parameters=0,
        form=manifest.form,
    )
