"""Find the version that an alias means, pull it, and measure it on the challenger's own rows."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from flows.run.measuring import fitting, measure
from flows.run.models_beside import bases
from flows.run.values import Data
from ftlib.config import REPORT, Split
from ftlib.data.profile import Profile
from ftlib.evaluation.measured import EvalReport, tables_in
from ftlib.evaluation.results import Difference, differences
from ftlib.kinds.outcomes import Outcomes
from ftlib.models.checkpoint import Checkpoint, task_in
from ftlib.published.lineage import indexed_rows
from ftlib.published.row_index import RowIndex, contains, packed
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Version
from ftlib.retraining.decisions import Champion
from ftlib.stages.step import Steps
from ftlib.workspace import Workspace
from tasks.runner import Runner

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

    def has_read(self, dataset: str) -> frozenset[str]:
        """Return the sha256 of the files that its rows came from: what is in them was considered, whatever was kept."""
        files = self.lineage.get("data", {}).get(dataset, {}).get("files", ())
        return frozenset(file["sha256"] for file in files)

    def trained_on(self, folder: Path) -> Any:
        """Return the ids of all rows it was trained on, sorted; none if its version has no index of them."""
        import numpy as np

        rows = [self.rows(name, folder) or {} for name in self.lineage.get("data", {})]
        return np.sort(np.concatenate([np.zeros(0, "S16"), *(by["train"] for by in rows if "train" in by)]))

    def pull(self, registry: ModelRegistry, work: Workspace) -> Path:
        """Return a folder with the version, verified; it is downloaded once."""
        folder = work.root / "champions" / self.version.manifest[:16]
        registry.pull(self.version, folder)
        os.utime(folder)  # what is used is not collected
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


def measured(r: Recipe, run: Runner, data: Data, folder: Path, trail: Sequence[Checkpoint]) -> tuple[EvalReport, ...]:
    """Measure the champion on the report splits, tokenised its own way; nothing if it does not know what rows ask.

    Its rewards are measured against the ends of the challenger's phases, as the challenger's are.
    """

    def steps() -> Steps[tuple[EvalReport, ...]]:
        reports: list[EvalReport] = []
        for task in r.tasks or (None,):
            own, asked, home = r.of_task(task), data.labels, folder
            if task is not None:
                asked, home = data.tasks[task], task_in(folder, task)
                if not home.is_dir():  # it was published before there was the task
                    continue
            finished = yield from fitting(CHAMPION, home, own, asked, bases(r, run.work))
            measured = finished and (yield from measure(finished, own, data.raw, REPORT, trail))
            reports += measured or ()
        return tuple(reports)

    return run.about(CHAMPION).through(steps)


def against_champion(
    ours: str,
    final: Sequence[EvalReport],
    r: Recipe,
    champion: Sequence[EvalReport],
    work: Workspace,
    trained: Any,
) -> tuple[tuple[Difference, ...], int]:
    """Return ours - champion for every metric of every evaluation, on the same rows, and how many were left out.

    `ours` is a candidate's name in `final`. Left out are rows that the champion was `trained` on: they went to another
    side since, as where a border of time moved or the identity of groups, and it knows their labels.
    """
    load, cells = tables_in(work), [cell for report in champion for cell in report.measured]
    left = {cell.evaluation: unseen(load(cell), trained) for cell in cells}
    evaluations = {name: e for name, e in r.evaluations.items() if name in left and len(left[name])}
    compared = differences(
        ours, CHAMPION, (*final, *champion), evaluations, lambda cell: unseen(load(cell), trained), r.seed
    )
    return tuple(compared), sum(cell.rows - len(left[cell.evaluation]) for cell in cells)


def unseen(table: Outcomes, trained: Any) -> Outcomes:
    """Return the rows that are not among those `trained` on, given as sorted ids."""
    was_trained_on = contains(trained, packed(table.row_ids))
    return table.take((~was_trained_on).nonzero()[0]) if was_trained_on.any() else table
