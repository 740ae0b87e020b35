"""`reglage deploy`: keep a recipe's model fresh by itself, from a Prefect server."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.console import WorkPlace, emit, json_option
from ftlib.storage.place import is_remote

if TYPE_CHECKING:
    from deployments.environment import Schedule
    from deployments.machine.state import State
    from deployments.recipe_deployment import Deployed


@click.command()
@click.argument("recipe", required=False)
@click.option("--cron", "crons", multiple=True, metavar="CRON", help="When, as '0 3 * * *': nightly at 3; repeatable.")
@click.option("--timezone", metavar="ZONE", help="Whose clock --cron means, as Europe/Paris or UTC.")
@click.option("--no-cron", is_flag=True, help="No schedule any more.")
@click.option("--event/--no-event", default=None, help="Whether changed data, or live answers, of this model start it.")
@click.option(
    "--approval",
    type=click.Choice(["automatic", "by_hand", "recipe"]),
    help="Whether a promotion waits for a person; `recipe`: as the recipe says.",
)
@click.option(
    "--work",
    type=WorkPlace(file_okay=False),
    metavar="PLACE",
    help="The work folder, or s3://bucket/prefix. [default: the environment's]",
)
@click.option(
    "--env",
    "environment",
    metavar="ENV.yaml",
    envvar="REGLAGE_ENVIRONMENT",
    help="The environment to deploy to. [default: that of `reglage up`, or pool reglage with this folder as home]",
)
@click.option("--pause/--resume", "paused", default=None, help="Whether schedules and events start nothing for now.")
@click.option("--remove", is_flag=True, help="Take it away; RECIPE may be the model's name. Its runs stay.")
@click.option("--list", "listed", is_flag=True, help="Show the recipes that are deployed.")
@json_option
def deploy(
    recipe: str | None,
    crons: tuple[str, ...],
    timezone: str | None,
    no_cron: bool,
    event: bool | None,
    approval: Any,
    work: str | None,
    environment: str | None,
    paused: bool | None,
    remove: bool,
    listed: bool,
    as_json: bool,
) -> None:
    """Retrain a recipe's model on a schedule, on an event or from its page in Prefect: one deployment, named for it.

    Run again, it changes what is said and keeps the rest.
    """
    up = _use_what_is_up()
    if listed:
        _list(as_json)
        return
    if recipe is None:
        raise click.UsageError("give the recipe to deploy, or --list")
    from deployments.environment import read_environment

    chosen = read_environment(environment or (up.environment if up else None))
    if remove:
        from deployments.recipe_deployment import remove_recipe

        change = remove_recipe(recipe, chosen)
        emit(f"removed: {change.name}; its runs stay", change.model_dump(mode="json"), as_json)
        return
    schedules = None if not crons and not no_cron else _schedules(crons, timezone, no_cron)
    if timezone and not crons:
        raise click.UsageError("--timezone says whose clock --cron means; give both")
    from flows.command_line.quiet import quiet_libraries
    from flows.command_line.recipe_notes import checked_recipe

    quiet_libraries()
    _, remarks = checked_recipe(Path(recipe))
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    from deployments.recipe_deployment import Wishes, deploy_recipe

    place = work if work is None or is_remote(work) else str(Path(work).absolute())
    wishes = Wishes(schedules, event, approval, place, paused, moves=environment is not None)
    made, change, has_worker = deploy_recipe(recipe, wishes, chosen)
    if not has_worker:
        click.echo(
            f"note: no worker waits for runs of the pool {made.pool}; `prefect worker start --pool {made.pool}` is one",
            err=True,
        )
    facts = {**change.model_dump(mode="json"), "deployed": made.model_dump(mode="json"), "worker": has_worker}
    emit("\n".join([*_changed(change), *_facts(made)]), facts, as_json)


def _use_what_is_up() -> State | None:
    """Talk to the server that `reglage up` runs for this folder, where the user's settings name none.

    Returns what is up, if this talks to it, and makes its home this one's: environments count from there.
    """
    from deployments.machine.state import StateFolder
    from flows.prefect_server import settings, user_has_server

    folder = StateFolder(Path(os.environ.get("REGLAGE_HOME") or "."))
    if not folder.root.is_dir():
        return None
    state = folder.read()
    if not state.serves() or not state.url:
        return None
    url = f"{state.url}/api"
    if not user_has_server():
        os.environ["PREFECT_API_URL"] = url
        if password := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
            os.environ["PREFECT_API_AUTH_STRING"] = password
    elif (os.environ.get("PREFECT_API_URL") or str(settings().api.url)).replace("localhost", "127.0.0.1") != url:
        return None
    os.environ["REGLAGE_HOME"] = str(folder.home)
    return state


def _schedules(crons: Sequence[str], timezone: str | None, no_cron: bool) -> tuple[Schedule, ...]:
    """Return the schedules that were asked for. Raises UsageError, RecipeError for what is none."""
    if crons and no_cron:
        raise click.UsageError("--cron and --no-cron: give one of them")
    if crons and timezone is None:
        raise click.UsageError("--cron needs --timezone: whose clock, as Europe/Paris or UTC")
    from pydantic import ValidationError

    from deployments.environment import Schedule
    from ftlib.errors import RecipeError

    try:
        return tuple(Schedule(cron=cron, timezone=timezone or "UTC") for cron in crons)
    except ValidationError as error:
        problems = (
            (f"--{problem['loc'][0]}", problem["msg"].removeprefix("Value error, ")) for problem in error.errors()
        )
        raise RecipeError("\n".join(f"{option}: {words}" for option, words in problems)) from None


def _changed(change: Any) -> list[str]:
    return [f"{change.what}: {change.name}", *(f"  {field}" for field in change.fields)]


def _facts(made: Deployed) -> list[str]:
    """Say what starts the deployment, and when."""
    lines = [f"  recipe     {made.recipe}"]
    if made.paused:
        lines.append("  paused     nothing starts it by itself; --resume")
    lines += [f"  schedule   {schedule}, {_next(schedule)}" for schedule in made.schedules]
    if made.event:
        lines.append(
            f"  event      reglage.data.changed, reglage.drift, reglage.quality of reglage.dataset.{made.model}"
        )
    if made.approval:
        lines.append(f"  approval   {made.approval}")
    lines.append(f"  by hand    prefect deployment run {made.deployment}")
    return lines


def _next(schedule: Schedule) -> str:
    if schedule.active is False:
        return "switched off"
    return f"next {schedule.next_time(datetime.now(UTC)):%Y-%m-%d %H:%M %Z}"


def _list(as_json: bool) -> None:
    """Print the recipes that are deployed on the server."""
    from deployments.recipe_deployment import deployed_recipes
    from flows.command_line.registry_options import table

    found = deployed_recipes()
    rows = [
        [
            one.deployment,
            one.recipe,
            "\n".join(f"{schedule}{'' if schedule.active else ' (off)'}" for schedule in one.schedules),
            "yes" if one.event else "no",
            one.approval or "recipe",
            "paused" if one.paused else "on",
            one.owner or "deploy",
        ]
        for one in found
    ]
    columns = ["deployment", "recipe", "schedule", "event", "approval", "state", "from"]
    record = {"deployments": [one.model_dump(mode="json") for one in found]}
    emit(table(columns, rows) if rows else "no recipe is deployed; `reglage deploy RECIPE` does", record, as_json)
