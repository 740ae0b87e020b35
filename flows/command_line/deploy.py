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
    from deployments.changes import Change
    from deployments.environment import Schedule
    from deployments.machine.state import State
    from deployments.recipe_deployment import Deployed


@click.command()
@click.argument("recipe", required=False)
@click.option("--cron", "crons", multiple=True, metavar="CRON", help="When, as '0 3 * * *': nightly at 3; repeatable.")
@click.option("--no-cron", is_flag=True, help="No schedule any more.")
@click.option("--timezone", metavar="ZONE", help="Whose clock the schedules mean, as Europe/Paris or UTC.")
@click.option("--event/--no-event", default=None, help="Whether changed data, or live answers, of this model start it.")
@click.option("--watch", "watches", multiple=True, metavar="CRON", help="When its files are looked at, for the event.")
@click.option("--no-watch", is_flag=True, help="Its files are looked at no more.")
@click.option("--monitor", "monitors", multiple=True, metavar="CRON", help="When its live answers are looked at.")
@click.option("--no-monitor", is_flag=True, help="Its live answers are looked at no more.")
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
    no_cron: bool,
    timezone: str | None,
    event: bool | None,
    watches: tuple[str, ...],
    no_watch: bool,
    monitors: tuple[str, ...],
    no_monitor: bool,
    approval: Any,
    work: str | None,
    environment: str | None,
    paused: bool | None,
    remove: bool,
    listed: bool,
    as_json: bool,
) -> None:
    """Retrain a recipe's model on a schedule, on an event or from its page in Prefect: one deployment, named for it.

    --watch and --monitor deploy what sends the events beside it: looks at its files and at its live answers. Run again,
    it changes what is said and keeps the rest.
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

        changes = remove_recipe(recipe, chosen)
        names = ", ".join(change.name for change in changes)
        emit(f"removed: {names}; runs stay", _record(changes), as_json)
        return
    schedules = _schedules("cron", crons, timezone, no_cron)
    watch = _schedules("watch", watches, timezone, no_watch)
    monitor = _schedules("monitor", monitors, timezone, no_monitor)
    if timezone and not (crons or watches or monitors):
        raise click.UsageError("--timezone says whose clock --cron, --watch and --monitor mean; give one of them, too")
    from flows.command_line.quiet import quiet_libraries
    from flows.command_line.recipe_notes import checked_recipe

    quiet_libraries()
    _, remarks = checked_recipe(Path(recipe))
    for remark in remarks:
        click.echo(f"note: {remark}", err=True)
    from deployments.recipe_deployment import Wishes, deploy_recipe

    place = work if work is None or is_remote(work) else str(Path(work).absolute())
    wishes = Wishes(schedules, event, approval, place, paused, watch, monitor, moves=environment is not None)
    made, changes, has_worker = deploy_recipe(recipe, wishes, chosen)
    if not has_worker:
        click.echo(
            f"note: no worker waits for runs of the pool {made.pool}; `prefect worker start --pool {made.pool}` is one",
            err=True,
        )
    facts = {**_record(changes), "deployed": made.model_dump(mode="json"), "worker": has_worker}
    emit("\n".join([*_changed(changes), *_facts(made, up)]), facts, as_json)


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


def _schedules(
    option: str, crons: Sequence[str], timezone: str | None, none_any_more: bool
) -> tuple[Schedule, ...] | None:
    """Return the schedules that an option asked for; None where it says nothing.

    Raises UsageError, RecipeError for what is no schedule.
    """
    if not crons:
        return () if none_any_more else None
    if none_any_more:
        raise click.UsageError(f"--{option} and --no-{option}: give one of them")
    if timezone is None:
        raise click.UsageError(f"--{option} needs --timezone: whose clock, as Europe/Paris or UTC")
    from pydantic import ValidationError

    from deployments.environment import Schedule
    from ftlib.errors import RecipeError

    try:
        return tuple(Schedule(cron=cron, timezone=timezone) for cron in crons)
    except ValidationError as error:
        fields = {"cron": option, "timezone": "timezone"}
        problems = (
            (f"--{fields[str(problem['loc'][0])]}", problem["msg"].removeprefix("Value error, "))
            for problem in error.errors()
        )
        raise RecipeError("\n".join(f"{named}: {words}" for named, words in problems)) from None


def _changed(changes: Sequence[Change]) -> list[str]:
    lines: list[str] = []
    for change in changes:
        lines += [f"{change.what}: {change.name}", *(f"  {field}" for field in change.fields)]
    return lines


def _record(changes: Sequence[Change]) -> dict[str, Any]:
    """Return what was done to the retraining, and `beside` it."""
    first, *others = [change.model_dump(mode="json") for change in changes]
    return {**first, "beside": others}


def _facts(made: Deployed, up: State | None) -> list[str]:
    """Say what starts the deployment, and when; Prefect's own commands know no server that `reglage up` runs."""
    below = "" if is_remote(made.work) or Path(made.work).is_absolute() else ", in the folder where runs start"
    lines = [f"  recipe     {made.recipe}", f"  work       {made.work}{below}"]
    if made.paused:
        lines.append("  paused     nothing starts it by itself; --resume")
    lines += [f"  schedule   {schedule}, {_next(schedule)}" for schedule in made.schedules]
    lines += [f"  watch      {schedule}, {_next(schedule)}" for schedule in made.watch]
    lines += [f"  monitor    {schedule}, {_next(schedule)}" for schedule in made.monitor]
    if made.event:
        lines.append(
            f"  event      reglage.data.changed, reglage.drift, reglage.quality of reglage.dataset.{made.model}"
        )
    if made.approval:
        lines.append(f"  approval   {made.approval}")
    server = f"PREFECT_API_URL={up.url}/api " if up else ""
    lines.append(f"  by hand    {server}prefect deployment run {made.deployment}")
    return lines


def _next(schedule: Schedule) -> str:
    if schedule.active is False:
        return "switched off"
    return f"next {schedule.next_time(datetime.now(UTC)):%Y-%m-%d %H:%M %Z}"


def _with_switch(schedule: Schedule) -> str:
    return f"{schedule}{'' if schedule.active else ' (off)'}"


def _list(as_json: bool) -> None:
    """Print the recipes that are deployed on the server."""
    from deployments.recipe_deployment import deployed_recipes
    from flows.command_line.registry_options import table

    found = deployed_recipes()
    rows = [
        [
            one.deployment,
            one.recipe,
            *("\n".join(map(_with_switch, when)) for when in (one.schedules, one.watch, one.monitor)),
            "yes" if one.event else "no",
            one.approval or "recipe",
            "paused" if one.paused else "on",
            one.owner or "deploy",
        ]
        for one in found
    ]
    columns = ["deployment", "recipe", "schedule", "watch", "monitor", "event", "approval", "state", "from"]
    record = {"deployments": [one.model_dump(mode="json") for one in found]}
    emit(table(columns, rows) if rows else "no recipe is deployed; `reglage deploy RECIPE` does", record, as_json)
