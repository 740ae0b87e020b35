"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from flows.command_line.console import UserPath, WorkPlace

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
    type=WorkPlace(file_okay=False),
    default="work",
    show_default=True,
    envvar="REGLAGE_WORK",
    metavar="PLACE",
    help="The folder that keeps what every stage made, or a bucket's prefix: s3://bucket/work.",
)


home_option = click.option(
    "--home",
    type=UserPath(file_okay=False),
    default=Path(),
    envvar="REGLAGE_HOME",
    metavar="DIR",
    help="The folder that recipes/, work/ and registry/ are below; its .reglage/ keeps the state. [default: here]",
)


base_option = click.option(
    "--base",
    "given",
    type=UserPath(exists=True, file_okay=False),
    multiple=True,
    metavar="FOLDER",
    help="The model that an adapter stands on, where it is not found by its name; its digest is compared. Repeatable.",
)


budget_option = click.option(
    "--budget",
    type=click.FloatRange(min=0.0),
    metavar="SUM",
    help="The most that it may cost, in the currency of REGLAGE_PRICES; it stops before. As --set compute.budget=SUM.",
)


def with_budget(overrides: tuple[str, ...], budget: float | None) -> tuple[str, ...]:
    """Return the overrides with what `--budget` stands for."""
    return overrides if budget is None else (*overrides, f"compute.budget={budget}")


def tracking_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that trains `--tensorboard` and `--mlflow`."""
    for option in (
        click.option(
            "--mlflow",
            envvar="REGLAGE_MLFLOW",
            metavar="URI",
            help="Also show the run in MLflow: a server, or sqlite:///mlflow.db.",
        ),
        click.option(
            "--tensorboard",
            envvar="REGLAGE_TENSORBOARD",
            metavar="DIR",
            help="Also write event files for TensorBoard while it trains.",
        ),
    ):
        command = option(command)
    return command
