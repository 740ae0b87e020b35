"""The chosen candidate to a published, verified version, or a gate's refusal."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ftlib.evaluation.measured import Tables, tables_in
from ftlib.fingerprint import Job
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import adapter_in, task_in
from ftlib.models.pipelines import into_pipeline
from ftlib.models.shards import write_shards, write_shared_shards
from ftlib.published.answers import answers
from ftlib.published.card import model_card
from ftlib.published.lineage import index_rows, lineage
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.versions import Manifest, StandsOn, file_of
from ftlib.report.report import Report
from ftlib.stages.publication import publish_staged, published_before, refusals
from ftlib.training.fisher.record import write_carried
from ftlib.workspace import Workspace


class RegisterJob(Job):
    """What to publish, with the evidence. Gates are those of `recipe.select.gates`, checked on `evidence.final`."""

    stage: ClassVar[str] = "register"
    version: ClassVar[int] = 4

    evidence: Evidence
    report: Report


def register(job: RegisterJob, work: Workspace) -> ModelVersion | Refusal:
    """Publish the chosen candidate if every gate agrees; publishing the same job again finds the same version.

    Before the version can be seen it is read back from the registry, loaded with stock transformers and compared by
    logits with the candidate. Raises StorageError for a registry that is full, read-only, absent or unsafe for two
    publishers; IntegrityError if what comes back is not what was sent. Nothing is visible then.
    """
    if reasons := tuple(refusals(job.evidence.recipe, job.evidence.measured(job.evidence.selection.chosen.name))):
        return work.once(job, Refusal, lambda _: Refusal(reasons=reasons))
    registry = ModelRegistry(job.evidence.recipe.registry_store())
    if published := published_before(job, work, registry):
        return published
    return work.once(job, ModelVersion, lambda folder: _publish(job, registry, folder, tables_in(work)))


def _publish(job: RegisterJob, registry: ModelRegistry, folder: Path, tables: Tables) -> ModelVersion:
    """Stage the version, then commit it with the check that reads it back through stock libraries."""
    manifest = _stage(job, staging := folder / "staging", tables)

    def difference(copy: Path) -> float:
        return max(_difference(job.evidence, published) for published in _models(job.evidence, copy))

    key = job.evidence.recipe.publish.sign_with
    return publish_staged(job, registry, manifest, staging, difference, key)


def _difference(evidence: Evidence, published: _Model) -> float:
    """Return the largest difference of a published model's outputs from the measured one's; raises ModelError."""
    from ftlib.evaluation.publish_check import (
        adapter_difference,
        adapter_version_difference,
        check_chat_template,
        check_image_processor,
        drawn_adapter_difference,
        drawn_difference,
        logit_difference,
    )

    copy, chosen, recipe = published.folder, published.chosen, published.recipe
    data, start = evidence.prepared[published.measured_on], evidence.model.folder
    if published.draws:
        difference = drawn_difference(copy, chosen, data)
        if recipe.publish.adapter:
            drawn_adapter_difference(adapter_in(copy), start, chosen, data)
        return difference
    check_image_processor(copy, chosen, recipe.published_format(), data)
    check_chat_template(copy, chosen, recipe.published_format())
    if evidence.stands_on:
        return adapter_version_difference(copy, evidence.stands_on, chosen, data)
    difference = logit_difference(copy, chosen, data)
    if recipe.publish.adapter:
        adapter_difference(adapter_in(copy), start, chosen, data)
    return difference


def _stage(job: RegisterJob, staging: Path, tables: Tables) -> Manifest:
    """Write everything the version is made of to a folder and return its manifest."""
    from ftlib.kinds.published_processor import settle_processor
    from ftlib.merging.candidate_weights import write_candidate

    recipe, chosen = job.evidence.recipe, job.evidence.selection.chosen
    stands_on, most = job.evidence.stands_on, int(1e6 * recipe.publish.shard_mb)
    models = _models(job.evidence, staging)
    merged = {one.folder: write_candidate(one.chosen, one.folder, stands_on) for one in models}
    for one in models:
        settle_processor(one.folder, one.recipe.published_format())
    if draws := any(one.draws for one in models):
        into_pipeline(staging)
    elif recipe.tasks:
        write_shared_shards([*merged], most)
    elif not stands_on:
        write_shards(staging, most)
    if recipe.publish.adapter:
        _stage_adapter(job.evidence, adapter_in(staging), draws=draws)
    if job.evidence.fisher:
        write_carried(job.evidence.fisher, staging)
    (staging / "plots").mkdir()
    for plot in job.report.plots:
        shutil.copyfile(job.report.path / plot, staging / "plots" / plot)
    shutil.copyfile(job.report.path / job.report.html, staging / "report.html")
    plots = [f"plots/{plot}" for plot in job.report.plots]
    card = model_card(job.evidence, plots)
    (staging / "README.md").write_text(card, encoding="utf-8")
    indexes = index_rows(job.evidence, staging)
    paths = sorted(path.relative_to(staging).as_posix() for path in staging.rglob("*") if path.is_file())
    return Manifest(
        name=recipe.publish.name,
        description=recipe.publish.description,
        files=tuple(file_of(staging, path) for path in paths),
        metrics={
            f"{evaluation}/{kind}": estimate.value
            for evaluation, cell in job.evidence.measured(chosen.name).items()
            for kind, estimate in cell.metrics.items()
        },
        lineage=lineage(
            job.evidence,
            {one.task: merged[one.folder].weights for one in models},
            [*dict.fromkeys(warning for one in merged.values() for warning in one.warnings)],
            indexes,
            answers(job.evidence, tables),
        ),
        form=chosen.end.form,
        base=StandsOn(**stands_on.model_dump(exclude={"uri"})) if stands_on else None,
    )


@dataclass(frozen=True)
class _Model:
    """A stock model of a version: the only one, or that of a task."""

    task: str | None
    folder: Path
    chosen: Candidate
    recipe: Recipe

    @property
    def draws(self) -> bool:
        """Say whether it draws images, so that it is published as a pipeline of diffusers."""
        predictor = KINDS[self.recipe.published_format().yields].predictor
        return predictor is not None and predictor.draws

    @property
    def measured_on(self) -> str:
        """Return a dataset whose rows it is asked about."""
        return self.recipe.evaluation_datasets()[0]


def _models(evidence: Evidence, folder: Path) -> list[_Model]:
    """Return the stock models that a version's folder holds."""
    recipe, chosen = evidence.recipe, evidence.selection.chosen
    if not recipe.tasks:
        return [_Model(None, folder, chosen, recipe)]
    return [_Model(t, task_in(folder, t), chosen.of_task(t), recipe.of_task(t)) for t in recipe.tasks]


def _stage_adapter(evidence: Evidence, folder: Path, *, draws: bool) -> None:
    from ftlib.merging.adapters import write_scaled
    from ftlib.merging.stock_lora import write_stock_lora

    chosen = evidence.selection.chosen
    if draws:
        write_stock_lora(adapter_in(chosen.end.path), chosen.start.weights_folder, chosen.merge, folder)
        return
    name, _, revision = evidence.model.name.partition("@")
    write_scaled(
        adapter_in(chosen.end.path), chosen.start.weights_folder, chosen.merge, folder, (name, revision or None)
    )
