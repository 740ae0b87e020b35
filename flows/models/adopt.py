"""A model folder that no run trained on its way to being a version, and perhaps the champion."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.run import jobs, models_beside
from flows.run.measuring import Finished, fitting, measure
from flows.run.steps import ingested, pinned
from ftlib.config import REPORT, BatchKind, Config
from ftlib.data.datasets import PreparedDataset
from ftlib.data.forgotten import read_requests
from ftlib.data.identity import identities
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.evaluation.measured import EvalReport
from ftlib.evaluation.results import Difference
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidate
from ftlib.merging.recorded import MERGE_RECORD
from ftlib.models.folder import find_model, is_adapter, labels_of, weights_digest
from ftlib.models.reference import ModelRef
from ftlib.published.adopted import check_is_no_version, kind_of, merge_record
from ftlib.recipe.recipe import Recipe
from ftlib.registry import AliasEntry, ModelRegistry
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.registry.publish import Publish
from ftlib.retraining.decisions import worth_promoting
from ftlib.stages.adopt import AdoptJob, adopt
from ftlib.stages.base import BaseJob, base
from ftlib.stages.preprocess import preprocess
from ftlib.stages.step import Steps, step, walk
from ftlib.storage import Store
from ftlib.wording import counted
from ftlib.workspace import Workspace


@dataclass(frozen=True)
class Adoption:
    """Which folder to publish as what, and what measures it."""

    folder: Path
    called: str
    """As the user gave it."""
    publish: Publish
    recipe: Recipe | None = None
    """Whose evaluations measure it, whose gates hold, and whose rules say when it may replace the champion."""
    kind: BatchKind | None = None
    """How it is asked, where there is no recipe; None: as its config says."""
    alias: str = "champion"
    """Whose version's labels it is held against."""
    labels_may_change: bool = False
    who: str = ""

    def store(self) -> Store:
        """Open the registry that it is published to, to be written with the recipe's key."""
        return self.publish.store(self.recipe.encryption.kms_key if self.recipe else None)

    @property
    def asks_a_person(self) -> bool:
        """Say whether the recipe lets only a person promote."""
        return self.recipe is not None and self.recipe.retrain.approval == "by_hand"


class Adopted(Config):
    """What became of a folder."""

    result: ModelVersion | Refusal
    reports: tuple[EvalReport, ...] = ()
    """On the report splits."""


class Trial(Config):
    """A version against the champion: whether it may replace it, and why."""

    go: bool
    reasons: tuple[str, ...]
    champion: int | None = None
    """The version in place; None where there is none."""
    expected: int | None = None
    """The alias entry that it was judged against."""
    differences: tuple[Difference, ...] = ()
    """The version - champion."""
    held: str = ""
    """Who rolled the alias back, which holds what promotes by rule; empty where nobody did."""


@dataclass(frozen=True)
class _Measured:
    finished: Finished
    kind: BatchKind
    data: PreparedDataset | None
    reports: tuple[EvalReport, ...]


def adopt_folder(asked: Adoption, work: Workspace) -> Adopted:
    """Check, measure and publish a folder, whose files stay as they are.

    Raises ModelError for a folder that is no whole, safe model, DataError for other labels than the champion's, and
    what the stages raise; nothing is visible then.
    """
    folder = asked.folder
    check_is_no_version(folder)
    if is_adapter(folder):
        raise ModelError(
            f"{asked.called} is an adapter: what stands on another model is published by a run; merge it first, "
            f"`reglage interpolate BASE {asked.called} --alpha 1 --out FOLDER`, and publish that"
        )
    find_model(ModelRef(path=str(folder)))  # what is wrong with it is said before anything is measured
    if (folder / MERGE_RECORD).is_file():
        merge_record(folder, weights_digest(folder))
    _check_labels(asked)
    measured = walk(_steps(asked, work), lambda one: one.stage(one.job, work))
    job = AdoptJob(
        publish=asked.publish,
        kind=measured.kind,
        model=measured.finished.model,
        candidate=measured.finished.candidate,
        recipe=asked.recipe,
        reports=measured.reports,
        data=measured.data,
        folder=asked.called,
        who=asked.who,
    )
    return Adopted(result=adopt(job, work), reports=measured.reports)


def try_champion(asked: Adoption, adopted: Adopted, work: Workspace) -> Trial:
    """Measure the champion on the same rows and judge by the recipe's `retrain`, as a retraining would."""
    from flows.retraining.challenge import held_by  # these load Prefect, which no publication needs
    from flows.retraining.champion import CHAMPION, against_champion, in_place

    r, version = asked.recipe, adopted.result
    if r is None or not isinstance(version, ModelVersion):
        raise RecipeError("the champion's test needs a recipe and a published version; give --recipe")
    registry = ModelRegistry(r.registry_store())
    champion = in_place(registry, r)
    if champion is None:
        return Trial(go=True, reasons=("the first version of this model",))
    hold = registry.hold(r.publish.name, r.retrain.alias)
    seen = Trial(
        go=False,
        reasons=(f"version {version.version} is in place already",),
        champion=champion.facts.version,
        expected=champion.facts.sequence,
        held=held_by(hold) if hold else "",
    )
    if champion.facts.version == version.version:
        return seen
    folder = champion.pull(registry, work)
    labels = labels_of(asked.folder) if KINDS[r.answering_kind].labeled else ()

    def steps() -> Steps[Sequence[EvalReport]]:
        finished = yield from fitting(CHAMPION, folder, r, labels, models_beside.bases(r, work))
        raw = (yield from ingested(r, pinned(r, work), read_requests(work))) if finished else None
        measured = (yield from measure(finished, r, raw, REPORT)) if finished and raw else None
        return measured or ()

    cells = walk(steps(), lambda one: one.stage(one.job, work))
    ours = adopted.reports[0].measured[0].candidate
    compared, left_out = against_champion(ours, adopted.reports, r, cells, work, champion.trained_on(folder))
    by = r.retrain.compare or r.select.by
    verdict = worth_promoting(compared, r.retrain, by, r.metric(by)[1])
    note = [f"{counted(left_out, 'held-out row')} that the champion was trained on left out"] if left_out else []
    return seen.model_copy(
        update={"go": verdict.go, "reasons": (*verdict.reasons, *note), "differences": tuple(compared)}
    )


def promote_adopted(asked: Adoption, version: ModelVersion, trial: Trial) -> AliasEntry:
    """Let the recipe's alias mean a version that passed. Raises ConflictError if somebody moved it since the test."""
    registry, why = ModelRegistry(asked.store()), "; ".join(trial.reasons)
    who = asked.who or "registry publish"
    return registry.promote(version.name, asked.alias, version.version, trial.expected, who, why)


def _steps(asked: Adoption, work: Workspace) -> Steps[_Measured]:
    """Load the folder's model with the head that it has and, with a recipe, measure it on every evaluation."""
    if (r := asked.recipe) is None:
        kind = asked.kind or kind_of(asked.folder)
        return _Measured((yield from _loaded(asked, kind)), kind, None, ())
    finished = yield from fitting(asked.publish.name, asked.folder, r)
    if finished is None:
        raise ModelError(
            f"{asked.called} has no head for the {r.answering_kind!r} rows of {r.name}; give a model that was trained "
            "for them, or another recipe"
        )
    raw = yield from ingested(r, pinned(r, work), read_requests(work))
    of = r.evaluation_datasets()[0]
    job = jobs.preprocess_job(r, of, raw, finished.model) if raw else None
    data = (yield from step(preprocess, job, of, on_ray=r.compute.prepares_on_ray)) if job else None
    reports = (yield from measure(finished, r, raw, REPORT)) if raw else None
    return _Measured(finished, r.answering_kind, data, tuple(reports or ()))


def _loaded(asked: Adoption, kind: BatchKind) -> Steps[Finished]:
    """Load a model without a recipe. Raises ModelError if it does not answer such rows, with a head of its own."""
    if KINDS[kind].modality != "text":
        raise RecipeError(f"--kind {kind}: such a model is asked about images, and here are none; give --recipe")
    model = find_model(ModelRef(path=str(asked.folder)))
    labels = labels_of(asked.folder) if KINDS[kind].labeled else ()
    if KINDS[kind].labeled and not labels:
        raise ModelError(f"{asked.called}/config.json names no labels; write them into it as id2label")
    start = yield from step(base, BaseJob(model=model, kind=kind, labels=labels, seed=0))
    if start is None or start.fresh_head:
        raise ModelError(
            f"{asked.called} has no head of its own for {kind!r} rows: it would be published with a random one; give a "
            "model that was trained for them, or another --kind"
        )
    return Finished(model, Candidate.of(start.model_copy(update={"phase": asked.publish.name})))


def _check_labels(asked: Adoption) -> None:
    """Raise DataError if the champion knows other labels, unless they may change."""
    registry = ModelRegistry(asked.store())
    entry = registry.alias(asked.publish.name, asked.alias)
    if entry is None or asked.labels_may_change:
        return
    before = _labels_of_version(registry, asked.publish.name, entry.version)
    ours, theirs = identities(labels_of(asked.folder)), identities(before)
    new, gone = (sorted(a[key] for key in a.keys() - b.keys()) for a, b in ((ours, theirs), (theirs, ours)))
    if new or gone:
        raise DataError(
            f"labels differ from those of {asked.publish.name}@{entry.version}, the {asked.alias}: new "
            f"{', '.join(new) or 'none'}, gone {', '.join(gone) or 'none'}; give --labels-may-change if that is meant"
        )


def _labels_of_version(registry: ModelRegistry, name: str, number: int) -> tuple[str, ...]:
    """Return a version's labels, reading its config alone; none of one with several tasks."""
    manifest = registry.manifest(registry.version(name, number))
    file = next((file for file in manifest.files if file.path == "config.json"), None)
    if file is None:
        return ()
    with tempfile.TemporaryDirectory() as scratch:
        registry.store.get_file(file.blob, Path(scratch, file.path), file.sha256)
        return labels_of(Path(scratch))
