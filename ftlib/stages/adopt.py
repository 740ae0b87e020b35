"""A model folder that no run trained to a published, verified version, or a gate's refusal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from ftlib.config import BatchKind
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError
from ftlib.evaluation.measured import EvalReport
from ftlib.fingerprint import Job
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import facts_beside, files_digest, weights_digest
from ftlib.models.shards import write_shards
from ftlib.published.adopted import Origin, adopted_card, adopted_lineage, merge_record, taken
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.publish import Publish
from ftlib.registry.versions import Manifest, file_of
from ftlib.stages.publication import publish_staged, published_before, refusals
from ftlib.workspace import Workspace


class AdoptJob(Job):
    """Which folder to publish, as what, and what it was measured by."""

    stage: ClassVar[str] = "adopt"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"folder", "who"})

    publish: Publish
    kind: BatchKind
    model: FoundModel
    candidate: Candidate
    """The model as it was measured."""
    recipe: Recipe | None = None
    """Whose evaluations measured it; its gates hold."""
    reports: tuple[EvalReport, ...] = ()
    """On the report splits."""
    data: PreparedDataset | None = None
    """Rows on which the published model is compared with the measured one."""
    folder: str
    """As the user gave it."""
    who: str = ""


def adopt(job: AdoptJob, work: Workspace) -> ModelVersion | Refusal:
    """Publish the folder's own bytes if every gate agrees; publishing the same again finds the same version.

    As in `register` the version is read back, loaded with stock transformers and compared by logits with the model that
    was measured before it can be seen. Raises ModelError if the folder is another one than was measured, and what
    `register` raises.
    """
    cells = {cell.evaluation: cell for report in job.reports for cell in report.measured}
    if job.recipe and (reasons := tuple(refusals(job.recipe, cells))):
        return work.once(job, Refusal, lambda _: Refusal(reasons=reasons))
    registry = ModelRegistry(job.publish.store(job.recipe.encryption.kms_key if job.recipe else None))
    if published := published_before(job, work, registry):
        return published
    return work.once(job, ModelVersion, lambda folder: _publish(job, registry, folder))


def _publish(job: AdoptJob, registry: ModelRegistry, folder: Path) -> ModelVersion:
    """Stage the version, then commit it with the check that reads it back through stock libraries."""
    from ftlib.evaluation.publish_check import check_chat_template, check_image_processor, folder_difference

    manifest = _stage(job, staging := folder / "staging")

    def difference(copy: Path) -> float:
        if job.recipe and job.data:
            check_image_processor(copy, job.candidate, job.recipe.published_format(), job.data)
            check_chat_template(copy, job.candidate, job.recipe.published_format())
        return folder_difference(copy, job.candidate, job.kind, job.data)

    return publish_staged(job, registry, manifest, staging, difference, job.publish.sign_with)


def _stage(job: AdoptJob, staging: Path) -> Manifest:
    """Copy what a version takes of the folder, and write its card beside it; the copy is what is published."""
    source = job.model.folder
    staging.mkdir()
    names = taken(source)
    for name in names:
        shutil.copyfile(source / name, staging / name)
    _check_same(job.model, staging)
    weights = weights_digest(staging)
    origin = Origin(
        folder=job.folder,
        files=tuple(file_of(staging, name) for name in names),
        merge=merge_record(source, weights),
        who=job.who,
    )
    write_shards(staging, int(1e6 * job.publish.shard_mb))
    card = adopted_card(job.publish, job.kind, job.candidate.end.labels, origin, job.recipe, job.reports)
    (staging / "README.md").write_text(card, encoding="utf-8")
    paths = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
    return Manifest(
        name=job.publish.name,
        description=job.publish.description,
        files=tuple(file_of(staging, path) for path in paths),
        metrics={
            f"{cell.evaluation}/{kind}": estimate.value
            for report in job.reports
            for cell in report.measured
            for kind, estimate in cell.metrics.items()
        },
        lineage=adopted_lineage(origin, job.kind, weights, job.recipe),
    )


def _check_same(model: FoundModel, copy: Path) -> None:
    """Raise ModelError if a copy has other bytes than the model that was found and measured."""
    beside = facts_beside(copy)
    if files_digest(copy) != model.weights or beside != {name: getattr(model, name) for name in beside}:
        raise ModelError(
            f"{model.uri}: files changed since this command began to read them; wait until it is written, and publish "
            "again"
        )
