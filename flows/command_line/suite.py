"""`reglage suite`: lm-evaluation-harness's tasks on folders or versions, compared in pairs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.console import UserPath, emit, json_option, stdout_console
from flows.command_line.options import base_option
from flows.command_line.quiet import quiet_libraries
from flows.command_line.registry_options import registry_options
from flows.command_line.results_table import Line, print_differences, print_results
from flows.models.places import bases, called, check_named_once, model_folder
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.results import Difference, adjusted
from ftlib.storage import Place
from ftlib.wording import counted

if TYPE_CHECKING:
    from ftlib.evaluation.lm_eval_suites import TaskScores


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--task", "tasks", multiple=True, required=True, metavar="NAME", help="A task by name; repeatable.")
@click.option(
    "--tasks-from",
    "folder",
    type=UserPath(exists=True, file_okay=False),
    help="A folder of tasks as YAML. Such a file may name Python code that is run.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first examples of each task.")
@click.option(
    "--resamples",
    type=click.IntRange(min=100),
    default=1000,
    show_default=True,
    help="Of the bootstrap.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Of the intervals and the verdicts.",
)
@base_option
@registry_options
@json_option
def suite(
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    folder: Path | None,
    limit: int | None,
    resamples: int,
    confidence: float,
    given: tuple[Path, ...],
    registry: Place,
    as_json: bool,
) -> None:
    """Ask causal language models a task suite (lm-eval): folders, or versions NAME@NUMBER or NAME@ALIAS.

    Each model after the first is compared with the first, example by example.
    """
    from ftlib.evaluation.lm_eval_suites import ask, check_installed

    quiet_libraries()
    check_installed()
    check_named_once("suite", models)
    resampling, scores_of = Resampling(resamples, confidence, seed=0), dict[str, "list[TaskScores]"]()
    folders = {name: model_folder(name, registry) for name in models}
    from ftlib.kinds.loading import load_language_model, load_tokenizer

    places = bases(registry, given)
    for name, model in folders.items():
        with called(name, model):
            scores_of[name] = ask(load_language_model(model, places), load_tokenizer(model), tasks, folder, limit)
    compared = adjusted(
        [
            ours.minus(theirs, (name, models[0]), resampling)
            for name in models[1:]
            for ours, theirs in zip(scores_of[name], scores_of[models[0]], strict=True)
        ]
    )
    emit(lambda: _print(scores_of, compared, resampling), _record(scores_of, compared, resampling), as_json)


def _record(
    scores_of: dict[str, list["TaskScores"]], compared: list[Difference], resampling: Resampling
) -> dict[str, Any]:
    return {
        "measured": [
            {
                "model": name,
                "task": scores.task,
                "metric": scores.metric,
                **scores.estimate(resampling).model_dump(),
                "examples": dict(zip(scores.examples, scores.values.tolist(), strict=True)),
            }
            for name, all_scores in scores_of.items()
            for scores in all_scores
        ],
        "differences": [difference.model_dump(mode="json") for difference in compared],
    }


def _print(scores_of: dict[str, list["TaskScores"]], compared: list[Difference], resampling: Resampling) -> None:
    console = stdout_console()
    for task in dict.fromkeys(scores.task for all_scores in scores_of.values() for scores in all_scores):
        of_this = {name: [s for s in all_scores if s.task == task] for name, all_scores in scores_of.items()}
        title = f"{task} ({counted(max(len(s.values) for group in of_this.values() for s in group), 'example')})"
        lines = [Line(name, {s.metric: s.estimate(resampling) for s in group}) for name, group in of_this.items()]
        print_results(console, title, lines)
    print_differences(console, compared)
