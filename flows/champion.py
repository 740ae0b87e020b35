"""The version that an alias stands for: found, pulled, and measured on the challenger's own rows."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from flows import finetune_jobs as jobs
from flows.pipeline import Data
from ftlib.artifacts import Candidate, EvalReport
from ftlib.config import LABELED, Split
from ftlib.evidence import Evidence
from ftlib.lineage import indexed_rows
from ftlib.model_folder import find_model, labels_of
from ftlib.model_registry import ModelRegistry
from ftlib.outcomes import tables_in
from ftlib.profile import Profile
from ftlib.recipe import REPORT, Recipe
from ftlib.recipe_parts import ModelRef
from ftlib.results import Difference, differences
from ftlib.retraining import Champion
from ftlib.row_index import RowIndex
from ftlib.stages.base import BaseJob
from ftlib.versions import Version
from tasks.assess import evaluate
from tasks.data import preprocess
from tasks.runner import Runner
from tasks.train import base

CHAMPION = "champion"
"""What its row is called in tables, whatever the alias."""


@dataclass(frozen=True)
class InPlace:
    """The champion with its version."""

    facts: Champion
    version: Version
    lineage: dict[str, Any]

    def profile(self, dataset: str) -> Profile:
        """Return what the rows looked like that it was trained on; an empty profile if it did not train on these."""
        return Profile.model_validate(self.lineage.get("data", {}).get(dataset, {}).get("profile", {}))

    def rows(self, dataset: str, folder: Path) -> dict[Split, Any] | None:
        """Return the ids of a dataset's rows that it has seen, by split; None if its version has no index of them."""
        index = self.lineage.get("data", {}).get(dataset, {}).get("index")
        return None if index is None else indexed_rows(folder, dataset, RowIndex.model_validate(index))

    def pull(self, registry: ModelRegistry, run: Runner) -> Path:
        """Return a folder with the version, verified; it is downloaded once."""
        folder = run.work.root / "champions" / self.version.manifest[:16]
        registry.pull(self.version, folder)
        return folder


def in_place(registry: ModelRegistry, r: Recipe) -> InPlace | None:
    """Return the version that is to be challenged; None if the alias was never moved."""
    entry = registry.alias(r.publish.name, r.retrain.alias)
    if entry is None:
        return None
    version = registry.version(r.publish.name, entry.version)
    moved = datetime.fromisoformat(entry.at)
    age = (datetime.now(UTC) - moved).total_seconds() / 86400
    facts = Champion(name=version.name, version=version.version, sequence=entry.sequence, age_days=age)
    return InPlace(facts, version, cast("dict[str, Any]", registry.manifest(version).lineage))


def measured(r: Recipe, run: Runner, data: Data, folder: Path) -> tuple[EvalReport, ...]:
    """Measure the champion on the report splits, tokenised its own way; nothing if it does not know what rows ask."""
    model = find_model(ModelRef(path=str(folder)))
    kind = r.phases[0].objective.needs
    labels = labels_of(folder) if kind in LABELED else ()
    if set(data.labels) - {*labels}:
        return ()
    run = replace(run, whose=CHAMPION)
    start = run(base, BaseJob(model=model, kind=kind, labels=labels, seed=r.seed))
    if start.fresh_head:
        return ()
    champion = Candidate.of(start.model_copy(update={"phase": CHAMPION}))
    prepared = {
        name: run(preprocess, jobs.preprocess_job(r, name, data.raw, model)) for name in r.evaluation_datasets()
    }
    return tuple(run(evaluate, job) for job in jobs.evaluate_jobs(r, [champion], prepared, REPORT))


def against_champion(found: Evidence, champion: tuple[EvalReport, ...], run: Runner) -> Iterator[Difference]:
    """Yield challenger - champion for every metric of every evaluation, on the same rows."""
    yield from differences(
        found.selection.chosen.name,
        CHAMPION,
        (*found.final, *champion),
        found.recipe.evaluations,
        tables_in(run.work.root),
        found.recipe.seed,
    )
