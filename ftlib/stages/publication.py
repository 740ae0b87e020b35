"""What every way to a published version has in common: gates, the version that is there already, the commit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ftlib.config import REPORT
from ftlib.errors import IntegrityError
from ftlib.evaluation.measured import Measured
from ftlib.evaluation.selection import Gate
from ftlib.fingerprint import Job
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.registry.signing import Signer
from ftlib.registry.versions import Manifest, Version
from ftlib.workspace import Workspace


def refusals(recipe: Recipe, cells: Mapping[str, Measured]) -> Iterator[str]:
    """Yield why a recipe's gates do not let a model through that was measured on the report splits, by evaluation."""
    for gate in recipe.select.gates:
        evaluation, metric = recipe.metric(gate.metric)
        estimate = cells[evaluation].metrics[metric.name]
        if (value := estimate.value) is None:
            yield (
                f"{gate.metric} is undefined on the {REPORT} split: {estimate.undefined}; {_bound(gate)} is required: "
                "add such rows, or name another metric in select.gates"
            )
        elif not _passes(gate, value):
            yield f"{gate.metric} is {value:.4f} on the {REPORT} split, {_bound(gate)} is required"


def _passes(gate: Gate, value: float) -> bool:
    enough = gate.at_least is None or value >= gate.at_least
    return enough and (gate.at_most is None or value <= gate.at_most)


def _bound(gate: Gate) -> str:
    return f"at least {gate.at_least:g}" if gate.at_least is not None else f"at most {gate.at_most:g}"


def published_before(job: Job, work: Workspace, registry: ModelRegistry) -> ModelVersion | None:
    """Return the version this job published, if the registry still has it whole: a record alone proves nothing.

    Of one that lost files the record is forgotten: publishing finds the version, and uploads what it lacks.
    """
    record = work.find(job, ModelVersion)
    if record is None:
        return None
    stored = registry.find(record.name, record.version) if record.registry == registry.store.uri else None
    if stored is None or stored.manifest != record.manifest or not _is_whole(registry, stored):
        work.forget(job)
        return None
    work.touch(job)
    return record.model_copy(update={"created": False})


def _is_whole(registry: ModelRegistry, version: Version) -> bool:
    with suppress(IntegrityError):  # of a manifest that is gone
        return registry.has_whole(registry.manifest(version))
    return False


def publish_staged(
    job: Job,
    registry: ModelRegistry,
    manifest: Manifest,
    staging: Path,
    difference: Callable[[Path], float],
    sign_with: str | None,
) -> ModelVersion:
    """Commit what lies in `staging`, which then goes; beside it is what the commit reads back.

    `difference` says by how much outputs of the copy that was read back differ from the measured model's, or raises:
    the version can be seen only afterwards. `sign_with` is the file of a key.
    """
    differences: list[float] = []
    signer = Signer(Path(sign_with)) if sign_with else None
    version, created = registry.publish(
        manifest, staging, job.fingerprint, lambda copy: differences.append(difference(copy)), staging.parent, signer
    )
    shutil.rmtree(staging)
    return ModelVersion(
        name=version.name,
        version=version.version,
        registry=registry.store.uri,
        manifest=version.manifest,
        logit_difference=max(differences),
        created=created,
    )
