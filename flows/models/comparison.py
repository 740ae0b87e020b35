"""Finished models on a recipe's evaluations, the first against each other: for `reglage evaluate` and its flow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flows.models.places import bases, called, check_named_once, model_folder
from flows.pages.rows_page import rows_record, whole
from flows.run.measuring import fitting, measure
from flows.run.steps import ingested, pinned
from ftlib.artifacts import Artifact
from ftlib.config import Split
from ftlib.data.datasets import Ledger, PreparedDataset
from ftlib.data.forgotten import read_requests
from ftlib.errors import ModelError, RecipeError
from ftlib.evaluation.measured import EvalReport, tables_in
from ftlib.evaluation.results import Difference, adjusted, differences
from ftlib.evaluation.suspects import Suspect, ranked, suspects
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.models.folder import labels_of
from ftlib.recipe.preflight import spelling_notes
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_resources
from ftlib.stages.preprocess import PreprocessJob
from ftlib.stages.step import Step, Steps
from ftlib.storage import Place
from ftlib.workspace import Workspace


class Through(Protocol):
    """Walks a model's steps, given its name, and tells `made` of each."""

    def __call__(
        self, name: str, steps: Callable[[], Steps[list[EvalReport]]], made: Callable[[Step, Artifact], None]
    ) -> list[EvalReport]:
        """Return what the steps come to."""
        ...


@dataclass(frozen=True)
class Comparison:
    """Models measured on the same evaluations."""

    recipe: Recipe
    """With just the evaluations that were asked for."""
    models: tuple[str, ...]
    split: Split
    reports: tuple[EvalReport, ...]
    differences: tuple[Difference, ...]
    """Each later model less the first."""
    rows: dict[str, Ledger]
    """Where every dataset's rows went."""

    def suspects(self, work: Workspace) -> dict[str, list[Suspect]]:
        """Return each model's list of rows whose labels may be wrong. Raises RecipeError where rows have not one each.

        A model says something only of rows that it did not train on.
        """
        load = tables_in(work)
        tables = [(cell, load(cell)) for report in self.reports for cell in report.measured]
        if not any(isinstance(table, LabelOutcomes) for _, table in tables):
            raise RecipeError("--suspects: needs rows of one label each, and no evaluation has any; leave it out")
        found: dict[str, list[Suspect]] = {name: [] for name in self.models}
        for cell, table in tables:
            dataset = self.recipe.evaluations[cell.evaluation].dataset
            found[cell.candidate] += suspects(dataset, cell.split, table)
        return {name: ranked(listed) for name, listed in found.items()}

    def record(self) -> dict[str, Any]:
        """Return it for scripts."""
        return {
            "recipe": self.recipe.name,
            "split": self.split,
            "rows": rows_record(self.rows),
            "measured": [cell.model_dump(mode="json") for report in self.reports for cell in report.measured],
            "differences": [difference.model_dump(mode="json") for difference in self.differences],
        }


def compare(
    recipe: Recipe,
    models: Sequence[str],
    split: Split,
    work: Workspace,
    registry: Place,
    given: Sequence[Path],
    through: Through,
    say: Callable[[str], None],
) -> Comparison:
    """Measure models, folders or versions, on one split of each of the recipe's evaluations.

    Args:
        recipe: With the evaluations to measure (`only`).
        models: What each is called, and where it is (`flows.models.places`).
        split: Which rows.
        work: Where what was measured before is found again.
        registry: Where versions are.
        given: Folders of models that adapters stand on.
        through: What runs the steps.
        say: Told in words what a user should know of a model's rows.

    Raises RecipeError for a model that is named twice, ModelError for one without a head for these rows.
    """
    check_named_once("evaluate", models)
    check_resources(recipe.model_copy(update={"phases": ()}))  # nothing is trained
    rows: dict[str, Ledger] = {}
    places = bases(registry, tuple(given))

    def measured(name: str, folder: Path) -> list[EvalReport]:
        def steps() -> Steps[list[EvalReport]]:
            finished = yield from fitting(name, folder, recipe, bases=places)
            raw = finished and (yield from ingested(recipe, pinned(recipe, work), read_requests(work)))
            return ((yield from measure(finished, recipe, raw, split)) if finished and raw else None) or []

        def made(step: Step, artifact: Artifact) -> None:
            if isinstance(step.job, PreprocessJob) and isinstance(artifact, PreparedDataset):
                rows.setdefault(step.which, whole(step.job.raw, artifact))
                for words in spelling_notes({step.which: artifact}, labels_of(folder), "here"):
                    say(f"{name}: {words}")

        with called(name, folder):
            if reports := through(name, steps, made):
                return reports
        kind = recipe.answering_kind
        raise ModelError(f"{name} has no head for {kind!r} rows to measure; give a model that was trained for them")

    reports = tuple(report for name in models for report in measured(name, model_folder(name, registry)))
    load = tables_in(work)
    compared = adjusted(
        [
            difference
            for name in models[1:]
            for difference in differences(name, models[0], reports, recipe.evaluations, load, recipe.seed)
        ]
    )
    return Comparison(recipe, tuple(models), split, reports, tuple(compared), rows)


def only(recipe: Recipe, evaluations: Sequence[str]) -> Recipe:
    """Return the recipe with just these evaluations; with all for none named. Raises RecipeError for unknown ones."""
    if unknown := sorted({*evaluations} - {*recipe.evaluations}):
        raise RecipeError(
            f"evaluation {', '.join(unknown)}: {recipe.name} has {', '.join(recipe.evaluations)}; name one of them"
        )
    kept = {name: e for name, e in recipe.evaluations.items() if not evaluations or name in evaluations}
    return recipe.model_copy(update={"evaluations": kept})
