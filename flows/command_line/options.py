"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from flows.command_line.console import UserPath

recipe_argument = click.argument("recipe", type=UserPath(dir_okay=False))


set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="PATH=VALUE",
    help="Override a field, repeatable: phases.tune.optimizer.epochs=1.",
)


work_option = click.option(
    "--work",
    type=UserPath(file_okay=False),
    default=Path("work"),
    show_default=True,
    envvar="REGLAGE_WORK",
    help="The folder that keeps what every stage made.",
)
