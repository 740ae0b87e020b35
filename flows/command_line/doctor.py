"""`reglage doctor`: look at everything that a run needs, and say what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.command_line.console import UserPath, emit, json_option, stdout_console
from flows.command_line.options import home_option, work_option

if TYPE_CHECKING:
    from deployments.machine.findings import Finding


@click.command()
@click.argument("recipe", type=UserPath(dir_okay=False), required=False)
@work_option
@click.option(
    "--registry",
    default="registry",
    show_default=True,
    envvar="REGLAGE_REGISTRY",
    metavar="URI",
    help="A folder, or s3://bucket/prefix; also gs:// and abfs://.",
)
@click.option("--ray", is_flag=True, help="Start a local Ray, too; a RECIPE whose workers need one does it as well.")
@home_option
@json_option
def doctor(recipe: Path | None, work: str, registry: str, ray: bool, home: Path, as_json: bool) -> None:
    """Look at what a run needs, of a RECIPE or of any, and say what to do: exit code 1 if no run is possible.

    Versions, commit, GPUs, disk, whether the registry can be torn, Prefect, settings and ports that are not safe;
    of a RECIPE also what it reads, its GPUs and its Ray.
    """
    from flows.command_line.quiet import quiet_libraries

    quiet_libraries()
    from deployments.machine.checks import examine
    from ftlib.recipe.file import load_recipe

    findings = examine(work, registry, load_recipe(recipe) if recipe else None, home, ray=ray)
    possible = all(finding.ok for finding in findings if finding.needed)
    emit(
        lambda: print_findings(findings),
        {
            "ok": possible,
            "warnings": sum(not finding.ok and not finding.needed for finding in findings),
            "findings": [finding.model_dump() for finding in findings],
        },
        as_json,
    )
    if not possible:
        click.get_current_context().exit(1)


def print_findings(findings: Sequence[Finding]) -> None:
    """Print one line for each finding, with the remedy where one is needed; what makes a run impossible comes last."""
    from rich.markup import escape

    console = stdout_console()
    for finding in sorted(findings, key=lambda one: (not one.ok) + (not one.ok and one.needed)):
        mark = "[green]✓[/]" if finding.ok else "[red]✗[/]" if finding.needed else "[yellow]![/]"
        remedy = f"; {finding.remedy}" if finding.remedy and not finding.ok else ""
        console.print(f"{mark} {finding.what:<10} {escape(finding.found + remedy)}", soft_wrap=True, markup=True)
