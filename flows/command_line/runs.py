"""`reglage runs`: every run of a work place side by side. See docs/runs.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from flows.command_line.console import UserPath, emit, json_option, stdout_console
from flows.command_line.options import work_option
from ftlib.costs.prices import read_prices
from ftlib.errors import RecipeError
from ftlib.tracking.run_choice import Condition, chosen, differing
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.run_index import read_runs
from ftlib.tracking.run_words import compared, main_metrics, row_of, titles
from ftlib.wording import counted
from ftlib.workspace import Workspace


@click.command()
@click.argument("pair", nargs=-1, metavar="[A B]")
@click.option("--where", multiple=True, metavar="FIELD>=N", help="Only runs for which this holds; repeatable.")
@click.option("--name", default="*", show_default=True, metavar="PATTERN", help="Only recipes of such a name.")
@click.option("--sort", metavar="FIELD", help="Order by a field; -FIELD: the largest first. [default: as they ran]")
@click.option("--prices", type=UserPath(dir_okay=False), metavar="FILE", help="Reckon all costs by these prices.")
@click.option("--html", type=UserPath(dir_okay=False), metavar="FILE", help="Also write a page that needs no other.")
@work_option
@json_option
def runs(
    pair: tuple[str, ...],
    where: tuple[str, ...],
    name: str,
    sort: str | None,
    prices: Path | None,
    html: Path | None,
    work: str,
    as_json: bool,
) -> None:
    """Show every run of a work place side by side; with two names, compare these two: `reglage runs tiny#1 tiny#2`."""
    if len(pair) not in (0, 2):
        raise RecipeError(f"runs: got {counted(len(pair), 'name')}; give two to compare, or none for a table")
    place = Workspace(work)
    if not place.exists():
        raise RecipeError(f"--work: {work} is not there; give the place that runs were started with")
    index = read_runs(place)
    for file in index.damaged:
        click.echo(f"note: {file} is damaged or of another version, so that run is left out", err=True)
    priced = read_prices(prices) if prices else None
    every = [_priced(facts, priced.of(facts.usage)) for facts in index.runs] if priced else index.runs
    if pair:
        ours, theirs = (_named(every, asked) for asked in pair)
        lines = compared(ours, theirs, place)
        emit("\n".join(lines), {"runs": [ours.name, theirs.name], "lines": lines}, as_json)
        return
    found = chosen(every, [Condition.read(one) for one in where], name, sort)
    if html:
        from ftlib.report.runs_page import write_page

        write_page(html, found, str(place))
        click.echo(f"page       {html}", err=True)
    record = {"runs": [_record(facts) for facts in found], "damaged": index.damaged}
    emit(_printing(found, place), record, as_json)


def _record(facts: RunFacts) -> dict[str, object]:
    fields = facts.model_dump(mode="json", exclude={"cells", "evaluations"})
    measured = {metric: value.model_dump(mode="json") for metric, value in facts.metrics.items()}
    return {"name": facts.name, **fields, "metrics": measured}


def _priced(facts: RunFacts, cost: object) -> RunFacts:
    return facts.model_copy(update={"cost": cost})


def _named(every: Sequence[RunFacts], asked: str) -> RunFacts:
    """Return the run of a name; the recipe's name alone means its last run. Raises RecipeError."""
    found = [facts for facts in every if asked in (facts.name, facts.recipe)]
    if not found:
        names = [facts.name for facts in every]
        near = [name for name in names if re.match(re.escape(asked.partition("#")[0]), name)] or names
        raise RecipeError(f"runs: no run is called {asked!r}; there are {', '.join(near[-5:]) or 'none'}")
    return found[-1]


def _printing(found: Sequence[RunFacts], place: Workspace) -> Callable[[], None]:
    def show() -> None:
        if not found:
            click.echo(f"no runs in {place}")
            return
        _print(found)

    return show


def _print(found: Sequence[RunFacts]) -> None:
    """Print a table, and below it where each run's recipe differs."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console, metrics = stdout_console(), main_metrics(found)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for title in titles(metrics):
        table.add_column(Text(title))
    for facts in found:
        table.add_row(*(Text(cell) for cell in row_of(facts, metrics)))
    console.print(table)
    for facts, fields in zip(found, differing(found), strict=True):
        if fields:
            words = ", ".join(f"{path}={value}" for path, value in fields.items())
            console.print(Text(f"{facts.name}: {words}"), soft_wrap=True)
        if facts.reason:
            console.print(Text(f"{facts.name}: {facts.state}: {facts.reason}"), soft_wrap=True)
    console.print(Text(counted(len(found), "run")), style="dim")
