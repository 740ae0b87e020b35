"""`reglage search`: try values of a recipe's fields, publish the best."""

import shlex
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.console import emit, json_option, stdout_console
from flows.command_line.options import recipe_argument, set_option, work_option

if TYPE_CHECKING:
    from flows.command_line.search_plan import SearchPlan
    from flows.searching.recipes import Searched
    from ftlib.search.record import SearchRecord
    from ftlib.search.trial import Trial


@click.command()
@recipe_argument
@click.option(
    "--try",
    "tries",
    multiple=True,
    metavar="PATH=RANGE",
    help="A field to try, repeatable: 'phases.tune.optimizer.learning_rate=1e-5..1e-3 log', PATH=4..64, PATH=[a, b].",
)
@click.option("--trials", type=click.IntRange(min=1), help="How many trials there are in all.")
@click.option("--metric", metavar="EVALUATION/METRIC", help="What trials are compared by.  [default: select.by]")
@click.option("--sampler", type=click.Choice(["tpe", "random", "grid"]), help="How values are proposed.")
@click.option("--at-once", type=click.IntRange(min=1), help="How many trials go on at a time.")
@click.option("--seed", type=int, help="Of what is proposed.")
@click.option("--soup", type=click.IntRange(min=1), help="How many of the best trials feed a greedy soup; 1: none.")
@click.option("--publish/--no-publish", default=True, help="Whether the best is published.  [default: publish]")
@click.option("--plan", "only_plan", is_flag=True, help="Show what it would try and take, and train nothing.")
@set_option
@work_option
@json_option
def search(
    recipe: Path,
    tries: tuple[str, ...],
    trials: int | None,
    metric: str | None,
    sampler: str | None,
    at_once: int | None,
    seed: int | None,
    soup: int | None,
    publish: bool,
    only_plan: bool,
    overrides: tuple[str, ...],
    work: str,
    as_json: bool,
) -> None:
    """Try values of a recipe's fields, by the validation rows, and publish what the best of them make.

    A trial is the recipe with other values, and what it makes is kept: the same command goes on where it was stopped,
    and more --trials go on behind those that are over.
    """
    from flows.command_line.quiet import quiet_libraries
    from flows.searching.recipes import Searched

    began = monotonic()
    changes = {
        "trials": trials,
        "metric": metric,
        "sampler": sampler,
        "at_once": at_once,
        "seed": seed,
        "soup": soup,
    }
    quiet_libraries()
    asked = Searched.load(recipe, overrides, tries, **changes)
    if only_plan:
        asked.check_plan()
        from flows.command_line.search_plan import plan_search
        from ftlib.costs.prices import read_prices

        plan = plan_search(asked, work, read_prices())
        emit(lambda: _print_plan(plan), plan.model_dump(mode="json"), as_json)
        return
    asked.check()
    from flows.command_line.run import run_search

    given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
    record = run_search(recipe, overrides, work, {**given, "tries": list(tries), "publish": publish})
    seconds = round(monotonic() - began, 1)
    emit(_printing(record, asked, work, seconds), _as_record(record, asked, work, seconds), as_json)


def _printing(record: "SearchRecord", asked: "Searched", work: str, seconds: float) -> Callable[[], None]:
    """Return what prints how a search ended."""

    def print_search() -> None:
        """Print the trials, the test rows, the page and the command."""
        from rich.table import Table

        from flows.command_line.results_table import Line, print_results
        from flows.command_line.run_summary import page_in
        from ftlib.report.search_page import lines_of
        from ftlib.wording import counted

        console = stdout_console()
        table = Table("trial", *record.search.space, record.metric, "", "seconds", title="trials", title_justify="left")
        for trial in record.trials:
            style = "bold magenta" if trial.number == record.best else None
            table.add_row(*_row(trial, list(record.search.space)), style=style)
        console.print(table)
        for name in dict.fromkeys(row.evaluation for row in record.results):
            rows = [row for row in record.results if row.evaluation == name]
            title = f"{name} ({rows[0].role}, {counted(rows[0].rows, 'test row')})"
            print_results(console, title, [Line(row.model, row.metrics, row.chosen) for row in rows])
        for line in lines_of(record):
            console.print(line, soft_wrap=True)
        console.print(f"page       {page_in(work, f'runs/{record.recipe}/search.html')}", soft_wrap=True)
        said = "it again   " if record.result else "publish it "
        console.print(f"{said}{asked.command(record.overrides)}{_work(work)}", soft_wrap=True)
        console.print(f"time       {seconds:.0f} s; trials took {record.seconds:.0f} s", style="dim")

    return print_search


def _work(work: str) -> str:
    return "" if work == "work" else f" --work {shlex.quote(work)}"


def _row(trial: "Trial", paths: list[str]) -> list[str]:
    from ftlib.search.space import written

    value = trial.outcome.value
    three = value.numbers() if value else None
    shown = f"{three[1]:.4f} [{three[0]:.4f}, {three[2]:.4f}]" if three else ""
    said = trial.outcome.candidate if trial.outcome.state == "done" else trial.outcome.state
    return [
        str(trial.number),
        *(written(trial.values[path]) for path in paths),
        shown,
        said,
        f"{trial.outcome.seconds:.0f}",
    ]


def _as_record(record: "SearchRecord", asked: "Searched", work: str, seconds: float) -> dict[str, Any]:
    from flows.command_line.run_summary import page_in
    from ftlib.registry.outcome import ModelVersion, Refusal

    return {
        **record.model_dump(mode="json", exclude={"result"}),
        "values": record.winner.values,
        "command": f"{asked.command(record.overrides)}{_work(work)}",
        "page": page_in(work, f"runs/{record.recipe}/search.html"),
        "version": record.result.model_dump(mode="json") if isinstance(record.result, ModelVersion) else None,
        "refused": list(record.result.reasons) if isinstance(record.result, Refusal) else [],
        "wall_seconds": seconds,
    }


def _print_plan(plan: "SearchPlan") -> None:
    console = stdout_console()
    for line in plan.lines():
        console.print(line, soft_wrap=True)
