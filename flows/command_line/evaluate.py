"""`reglage evaluate`: any model on a recipe's evaluations, without training anything."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from flows.command_line.console import UserPath, emit, json_option, stdout_console
from flows.command_line.model_places import base_option, bases, check_named_once, model_folder
from flows.command_line.options import set_option, work_option
from flows.command_line.quiet import quiet_libraries
from flows.command_line.registry_options import called, registry_options
from flows.command_line.results_table import Line, print_differences, print_results
from flows.measuring import fitting, measure
from flows.rows_page import rows_lines, rows_record, whole
from flows.steps import ingested, pinned
from ftlib.config import REPORT, SELECTION
from ftlib.data.datasets import Ledger
from ftlib.errors import ModelError, RecipeError
from ftlib.evaluation.measured import EvalReport, tables_in
from ftlib.evaluation.results import Difference, adjusted, differences
from ftlib.models.adapter import Bases
from ftlib.models.folder import labels_of
from ftlib.recipe.file import load_recipe
from ftlib.recipe.preflight import spelling_notes
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_resources
from ftlib.stages.preprocess import PreprocessJob
from ftlib.stages.step import Step, Steps, walk
from ftlib.storage import Place
from ftlib.wording import counted
from ftlib.workspace import Workspace


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--recipe",
    "recipe_path",
    required=True,
    type=UserPath(dir_okay=False),
    help="The recipe whose evaluations are measured.",
)
@click.option(
    "--evaluation",
    "evaluations",
    multiple=True,
    metavar="NAME",
    help="Measure only this one; repeatable. [default: all]",
)
@click.option(
    "--split",
    type=click.Choice([REPORT, SELECTION]),
    default=REPORT,
    show_default=True,
    help="The rows to measure on: those of the report, or those that candidates are chosen by.",
)
@set_option
@work_option
@base_option
@registry_options
@json_option
def evaluate(
    models: tuple[str, ...],
    recipe_path: Path,
    evaluations: tuple[str, ...],
    split: Any,
    overrides: tuple[str, ...],
    work: Path,
    given: tuple[Path, ...],
    registry: Place,
    as_json: bool,
) -> None:
    """Measure models on a recipe's evaluations: folders, or versions NAME@NUMBER or NAME@ALIAS.

    Each model after the first is compared with the first, on the same rows. What was measured before, by this command
    or by a run in the same work folder, is not measured again.
    """
    quiet_libraries()
    check_named_once("evaluate", models)
    recipe, workspace = _with_evaluations(load_recipe(recipe_path, overrides), evaluations), Workspace(work)
    rows: dict[str, Ledger] = {}
    check_resources(recipe.model_copy(update={"compute": recipe.compute.model_copy(update={"workers": 0})}))
    places = bases(registry, given)
    reports = [
        report
        for model in models
        for report in _measured(model, model_folder(model, registry), recipe, split, workspace, rows, places)
    ]
    compared = _compared(models, reports, recipe, workspace)
    record = {
        "recipe": recipe.name,
        "split": split,
        "rows": rows_record(rows),
        "measured": [cell.model_dump(mode="json") for report in reports for cell in report.measured],
        "differences": [difference.model_dump(mode="json") for difference in compared],
    }
    emit(lambda: _print(recipe, reports, compared, rows), record, as_json)


def _with_evaluations(recipe: Recipe, evaluations: Sequence[str]) -> Recipe:
    """Return the recipe with just these evaluations."""
    if unknown := sorted({*evaluations} - {*recipe.evaluations}):
        raise RecipeError(
            f"--evaluation {', '.join(unknown)}: {recipe.name} has {', '.join(recipe.evaluations)}; name one of them"
        )
    kept = {name: e for name, e in recipe.evaluations.items() if not evaluations or name in evaluations}
    return recipe.model_copy(update={"evaluations": kept})


def _measured(
    name: str, folder: Path, recipe: Recipe, split: Any, work: Workspace, rows: dict[str, Ledger], places: Bases
) -> list[EvalReport]:
    """Walk the steps that measure one finished model, and note where its rows went in `rows`."""

    def steps() -> Steps[list[EvalReport] | None]:
        finished = yield from fitting(name, folder, recipe, bases=places)
        raw = finished and (yield from ingested(recipe, pinned(recipe, work)))
        return (yield from measure(finished, recipe, raw, split)) if finished and raw else None

    def call(step: Step) -> object:
        made = step.stage(step.job, work)
        if isinstance(step.job, PreprocessJob):
            rows.setdefault(step.which, whole(step.job.raw, made))
            for words in spelling_notes({step.which: made}, labels_of(folder), "here"):
                click.echo(f"{name}: {words}", err=True)
        return made

    with called(name, folder):
        reports = walk(steps(), call)
    if reports is None:
        kind = recipe.answering_kind
        raise ModelError(f"{name} has no head for {kind!r} rows to measure; give a model that was trained for them")
    return reports


def _compared(
    models: Sequence[str], reports: Sequence[EvalReport], recipe: Recipe, work: Workspace
) -> list[Difference]:
    load = tables_in(work.root)
    return adjusted(
        [
            difference
            for model in models[1:]
            for difference in differences(model, models[0], reports, recipe.evaluations, load, recipe.seed)
        ]
    )


def _print(
    recipe: Recipe, reports: Sequence[EvalReport], compared: Sequence[Difference], rows: Mapping[str, Ledger]
) -> None:
    console = stdout_console()
    for name, evaluation in recipe.evaluations.items():
        cells = [cell for report in reports for cell in report.measured if cell.evaluation == name]
        title = f"{name} ({evaluation.role}, {counted(cells[0].rows, 'row')})"
        print_results(console, title, [Line(cell.candidate, cell.metrics) for cell in cells])
    print_differences(console, compared)
    for line in rows_lines(rows):
        console.print(line, soft_wrap=True, style="dim")
