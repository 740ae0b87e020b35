"""`reglage evaluate`: any model on a recipe's evaluations, without training anything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from flows.command_line.console import UserPath, emit, json_option, stdout_console
from flows.command_line.options import base_option, set_option, work_option
from flows.command_line.quiet import quiet_libraries
from flows.command_line.registry_options import registry_options
from flows.command_line.results_table import Line, print_differences, print_results
from flows.models.comparison import Comparison, compare, only
from flows.pages.rows_page import rows_lines
from ftlib.artifacts import Artifact
from ftlib.config import REPORT, SELECTION
from ftlib.evaluation.measured import EvalReport
from ftlib.evaluation.suspects import as_csv
from ftlib.recipe.file import load_recipe
from ftlib.stages.step import Step, Steps, walk
from ftlib.storage import Place
from ftlib.wording import counted
from ftlib.workspace import write_durably


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
@click.option(
    "--suspects",
    type=UserPath(dir_okay=False),
    metavar="FILE",
    help="Write the ids of rows whose labels may be wrong, a CSV.",
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
    suspects: Path | None,
    overrides: tuple[str, ...],
    work: str,
    given: tuple[Path, ...],
    registry: Place,
    as_json: bool,
) -> None:
    """Measure models on a recipe's evaluations: folders, or versions NAME@NUMBER or NAME@ALIAS.

    Each model after the first is compared with the first, on the same rows. What was measured before, by this command
    or by a run in the same work folder, is not measured again.
    """
    quiet_libraries()
    recipe = only(load_recipe(recipe_path, overrides), evaluations)
    workspace = recipe.work_place(work)

    def through(
        name: str, steps: Callable[[], Steps[list[EvalReport]]], made: Callable[[Step, Artifact], None]
    ) -> list[EvalReport]:
        del name

        def call(step: Step) -> Artifact:
            artifact = step.stage(step.job, workspace)
            made(step, artifact)
            return artifact

        return walk(steps(), call)

    def say(words: str) -> None:
        click.echo(words, err=True)

    comparison = compare(recipe, models, split, workspace, registry, given, through, say)
    if suspects:
        found = comparison.suspects(workspace)
        write_durably(suspects, as_csv(found))
        rows = {(one.dataset, one.row_id) for listed in found.values() for one in listed}
        say(f"{counted(len(rows), 'suspected row')} in {suspects}")
    emit(lambda: _print(comparison), comparison.record(), as_json)


def _print(comparison: Comparison) -> None:
    console = stdout_console()
    for name, evaluation in comparison.recipe.evaluations.items():
        cells = [cell for report in comparison.reports for cell in report.measured if cell.evaluation == name]
        title = f"{name} ({evaluation.role}, {counted(cells[0].rows, 'row')})"
        print_results(console, title, [Line(cell.candidate, cell.metrics) for cell in cells])
    print_differences(console, comparison.differences)
    for line in rows_lines(comparison.rows):
        console.print(line, soft_wrap=True, style="dim")
