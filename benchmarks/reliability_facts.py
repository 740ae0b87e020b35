"""What must be the same after a kill and the same command again: read from a job's folder, never from what it says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.reliability_jobs import NAME, RECIPE
from ftlib.errors import ReglageError
from ftlib.registry import CHAMPION, ModelRegistry
from ftlib.storage import LocalStore

INVARIANTS = {
    "weights": "each version's weights, by sha256",
    "versions": "exactly the versions there should be",
    "history": "the champion's moves, none doubled",
    "rows": "the rows of each version's splits, none lost or doubled",
    "ledger": "the files that a retraining knows, and its decisions",
    "snapshots": "the ingested rows, by sha256",
    "faults": "what `fsck --deep` finds",
    "dangling": "objects that no version needs, but for probes",
    "collectable": "the work place can be collected, and nobody is said to use it",
    "answers": "each file of the answer log is whole",
}


def facts(folder: Path) -> dict[str, Any]:
    """Return what there is of each invariant, as JSON has it."""
    found: dict[str, Any] = {"snapshots": _snapshots(folder), "collectable": _collectable(folder)}
    found["answers"] = list(_torn(folder / "answers"))
    if (folder / "registry").is_dir():
        found |= _registry(folder)
    return json.loads(json.dumps(found))


def differing(found: dict[str, Any], undisturbed: dict[str, Any]) -> list[str]:
    """Return the invariants that a kill broke."""
    return [name for name in INVARIANTS if found.get(name) != undisturbed.get(name)]


def _registry(folder: Path) -> dict[str, Any]:
    """Return the versions, the moves of the alias, and what a deep check of the registry finds."""
    from ftlib.published.lineage import indexes_of
    from ftlib.registry.fsck import fsck

    registry = ModelRegistry(LocalStore(folder / "registry"))
    examined = fsck(registry, deep=True)
    versions = registry.versions(NAME)
    manifests = {version.version: registry.manifest(version) for version in versions}
    made = [version for version in versions if manifests[version.version].lineage]
    indexes = {version.version: indexes_of(version, manifests[version.version]) for version in made}
    return {
        "faults": [fault.model_dump(mode="json") for fault in examined.faults],
        "dangling": [path for path in examined.unreferenced if not path.startswith("probes/")],
        "versions": [version.version for version in versions],
        "weights": {
            number: [(file.path, file.blob) for file in manifest.files if file.path.endswith(".safetensors")]
            for number, manifest in manifests.items()
        },
        "rows": {number: {name: of.splits for name, of in index.items()} for number, index in indexes.items()},
        "history": [(entry.sequence, entry.version) for entry in registry.history(NAME, CHAMPION)],
        "ledger": _ledger(registry, folder),
    }


def _ledger(registry: ModelRegistry, folder: Path) -> dict[str, Any]:
    from ftlib.recipe.file import load_recipe
    from ftlib.retraining.file_ledger import FileLedger, compare

    states: dict[str, Any] = {}
    for name, dataset in load_recipe(folder / RECIPE).datasets.items():
        state = FileLedger(registry.store, NAME, name).state()
        if state.sequence:
            changes = compare(state, dataset.source.list())
            states[name] = [
                state.sequence,
                state.decision and state.decision.what,
                [len(kind) for kind in (changes.unchanged, changes.added, changes.edited, changes.vanished)],
            ]
    return states


def _snapshots(folder: Path) -> list[str]:
    found = (folder / "work" / "stages" / "ingest").glob("*/rows.parquet")
    return sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in found if ".work" not in file.parent.name)


def _collectable(folder: Path) -> str:
    from ftlib.published.work_roots import collect_work
    from ftlib.work_collection import WorkPolicy
    from ftlib.workspace import Workspace

    if not (folder / "work").is_dir():
        return "there is none"
    try:
        collected = collect_work(Workspace(str(folder / "work")), WorkPolicy(keep_days=0.0), delete=True)
    except ReglageError as error:
        return f"refused: {error}"
    return f"busy: {collected.busy}" if collected.busy else "yes"


def _torn(answers: Path) -> Iterator[str]:
    """Yield the files of an answer log that hold anything but whole records."""
    from pydantic import ValidationError

    from ftlib.answer_log.record import LateLabel, LiveAnswer

    for file in sorted(answers.glob("**/*.jsonl")):
        kind = LateLabel if file.parent.name == "labels" else LiveAnswer
        text = file.read_text(encoding="utf-8")
        try:
            for line in text.splitlines():
                kind.model_validate_json(line)
        except ValidationError:
            yield file.name
        if not text.endswith("\n"):
            yield file.name
