"""`reglage monitor`: one look at what the version in place answers live."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.console import emit, json_option, stdout_console
from flows.command_line.options import recipe_argument, set_option, work_option

if TYPE_CHECKING:
    from ftlib.retraining.live_verdict import LiveVerdict


@click.command()
@recipe_argument
@click.option(
    "--log", metavar="PLACE", help="The log of answers, a folder or s3://bucket/prefix. [default: as the recipe says]"
)
@set_option
@work_option
@json_option
def monitor(recipe: Path, log: str | None, overrides: tuple[str, ...], work: str, as_json: bool) -> None:
    """Look at live answers: whether what is asked has drifted, and whether they are worse than at publishing."""
    from flows.command_line.run import run_monitor

    verdict = run_monitor(recipe, log, overrides, work)
    emit(lambda: print_verdict(verdict, work, recipe, overrides), as_record(verdict), as_json)


def print_verdict(verdict: LiveVerdict, work: str, recipe: Path, overrides: tuple[str, ...]) -> None:
    """Print what a look came to."""
    from rich.markup import escape

    from flows.command_line.run_summary import print_page
    from ftlib.recipe.file import load_recipe
    from ftlib.retraining.live_verdict import said_of
    from ftlib.wording import counted

    console = stdout_console()
    reasons = escape("; ".join(verdict.reasons))
    console.print(f"[bold]{verdict.title.lower()}[/]: {reasons}", soft_wrap=True, markup=True)
    if verdict.done:
        console.print(verdict.done, soft_wrap=True)
    for drift in verdict.drift.drifts:
        console.print(f"{drift}{'  drifted' if drift.large else ''}", soft_wrap=True, style="dim")
    for text in verdict.drift.not_compared:
        console.print(f"not compared: {text}", soft_wrap=True, style="dim")
    for window in verdict.quality:
        if window.judged:
            few = "  too few" if window.too_few else ""
            console.print(f"{said_of(window, verdict.standard)}{few}", soft_wrap=True, style="dim")
    reading = verdict.reading
    console.print(
        f"{verdict.model} ({verdict.alias}, entry {verdict.entry}): {counted(reading.answers, 'answer')}, "
        f"{reading.labelled:,} with a label, {reading.thumbs:,} with a thumb, {reading.damages:,} damaged",
        soft_wrap=True,
    )
    if reading.strange_labels:
        console.print(
            f"{counted(reading.strange_labels, 'answer')} judged by nothing: their label is none of the "
            "version's; a slip in the log, or a new label, which a retraining learns",
            soft_wrap=True,
        )
    for reason, count in reading.left_out.items():
        console.print(f"left out: {count:,} {reason}", soft_wrap=True, style="dim")
    for reason, damage in reading.damaged.items():
        console.print(f"damaged: {damage.count:,} {reason}, first {damage.first}", soft_wrap=True, style="dim")
    print_page(console, "page", work, f"runs/{load_recipe(recipe, overrides).name}/monitor.html")


def as_record(verdict: LiveVerdict) -> dict[str, Any]:
    """Return the same for scripts."""
    return {"outcome": verdict.what, **verdict.model_dump(mode="json", exclude={"what"})}
