"""`reglage deploy`: a recipe's deployments, named for the model it publishes; nobody edits a tracked file.

It belongs to no environment's file: `deployments.apply` leaves it alone, and this leaves alone what a file owns.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse

from deployments.changes import Change, Step, delete, deployment_step, find, owned_automations, pool_step, tagged
from deployments.deployment import (
    BY_HAND,
    STANDING,
    TAG,
    Deployment,
    beside,
    check_parameters,
    is_owner,
    recipe_deployment,
)
from deployments.environment import DeployedRecipe, Environment, Schedule
from deployments.server import connected
from ftlib.config import Config, user_path
from ftlib.errors import ConflictError, RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.storage.place import is_remote

FLOW = "retrain"
LOOKS = ("watch", "monitor")
"""Flows that may stand beside it under the same name."""
_APPROVAL = "retrain.approval="


class Wishes(NamedTuple):
    """What is said of a deployment; None: as it is on the server."""

    schedules: tuple[Schedule, ...] | None = None
    event: bool | None = None
    approval: Literal["automatic", "by_hand", "recipe"] | None = None
    work: str | None = None
    paused: bool | None = None
    watch: tuple[Schedule, ...] | None = None
    monitor: tuple[Schedule, ...] | None = None
    moves: bool = False
    """Whether the environment was named, so that a deployment to another one, or to another pool, moves to it."""


class Deployed(Config):
    """A recipe's deployment as it is on the server."""

    deployment: str
    """Flow and name."""
    model: str
    """What it publishes; an event's resource is named for it."""
    recipe: str
    """Where a run finds the recipe."""
    schedules: tuple[Schedule, ...]
    """When it runs by itself."""
    event: bool
    """Whether changed data starts it."""
    watch: tuple[Schedule, ...] = ()
    """When its files are looked at by a deployment of its own."""
    monitor: tuple[Schedule, ...] = ()
    """When its live answers are looked at."""
    approval: str
    """automatic or by_hand; empty: as the recipe says."""
    work: str
    """Its work folder."""
    paused: bool
    """Whether neither schedules nor events start it."""
    pool: str
    """The work pool."""
    owner: str
    """The environment whose file it is in; empty: `reglage deploy` made it."""


def deploy_recipe(path: str, wishes: Wishes, environment: Environment) -> tuple[Deployed, list[Change], bool]:
    """Create or update a recipe's deployment and the looks beside it, and the pool if it is not there.

    Returns the deployment as it is now, what was done to it and beside it, and whether some worker waits for its runs.
    Raises RecipeError for a recipe that cannot be deployed, ConflictError where another recipe or an environment's file
    has the name.
    """
    recipe = load_recipe(path)
    with connected() as client:
        there = find(client, _full_name(recipe, environment))
        now = _there(client, there) if there and "recipe" in there.parameters else None  # else not Réglage's
        one = _settled(_as_found(path, environment), wishes, now)
        deployment = recipe_deployment(one, environment, BY_HAND)
        looks = beside(one, environment, deployment)
        for each in (deployment, *looks):
            check_parameters(each)
        if there is not None and now is not None:
            _check_same(recipe.publish.name, deployment, now)
            if not wishes.moves and BY_HAND in there.tags:
                _check_stays(environment, there)
        steps = [deployment_step(client, deployment), *_looks(client, looks, deployment.name)]
        pool = pool_step(client, environment.pool)
        if pool.change.what == "created":
            pool.make()
        for step in steps:
            if step.change.what != "unchanged":
                step.make()
        made = find(client, deployment.full_name)
        assert made is not None
        return _there(client, made), [step.change for step in steps], _has_worker(client, environment.pool.name)


def _looks(client: SyncPrefectClient, wanted: Sequence[Deployment], name: str) -> list[Step]:
    """Return the steps that make the looks of this name those that are wanted."""
    steps = [deployment_step(client, one) for one in wanted]
    gone = [flow for flow in LOOKS if flow not in {one.flow for one in wanted}]
    for flow in gone:
        if there := _look(client, flow, name, BY_HAND):
            change = Change(what="deleted", kind="deployment", name=f"{flow}/{name}")
            steps.append(Step(change, lambda there=there: delete(client, there)))
    return steps


def _look(client: SyncPrefectClient, flow: str, name: str, owner: str) -> DeploymentResponse | None:
    """Return the look of a name, if its owner has one."""
    there = find(client, f"{flow}/{name}")
    return there if there and owner in there.tags else None


def remove_recipe(path: str, environment: Environment) -> list[Change]:
    """Delete a recipe's deployment and the looks beside it; runs stay.

    `path` may be the model's name, where the recipe is gone. Raises RecipeError where there is none, ConflictError for
    one that an environment's file has.
    """
    model = path if not Path(path).exists() and _is_name(path) else load_recipe(path).publish.name
    name = f"{FLOW}/{model}{environment.suffix}"
    with connected() as client:
        there = find(client, name)
        if there is None:
            raise RecipeError(f"{name} is not deployed; `reglage deploy --list` shows what is")
        owner = next((tag for tag in there.tags if is_owner(tag)), "")
        if owner != BY_HAND:
            who = f"the environment {owner.partition(':')[2]!r}: take it out of its file" if owner else "somebody else"
            raise ConflictError(f"{name} belongs to {who}; nothing was removed")
        steps = _looks(client, (), there.name)
        for step in steps:
            step.make()
        delete(client, there)  # last: killed in between, the same command goes on
    return [Change(what="deleted", kind="deployment", name=name), *(step.change for step in steps)]


def deployed_recipes() -> list[Deployed]:
    """Return the recipes that are deployed on the server, by name."""
    with connected() as client:
        begin = {standing.tag for standing in STANDING.values()}  # their forms begin with some recipe as well
        ours = [one for one in tagged(client, TAG) if "recipe" in one.parameters and not begin & {*one.tags}]
        found = [_there(client, one) for one in ours]
    return sorted(found, key=lambda one: one.deployment)


def _is_name(text: str) -> bool:
    return not any(mark in text for mark in "/.")


def _full_name(recipe: Recipe, environment: Environment) -> str:
    return f"{FLOW}/{recipe.publish.name}{environment.suffix}"


def _settled(path: str, wishes: Wishes, now: Deployed | None) -> DeployedRecipe:
    """Return what is to be deployed: what was said, and for the rest what is there."""
    approval = wishes.approval or (now.approval if now else "") or "recipe"
    return DeployedRecipe(
        recipe=path,
        schedules=wishes.schedules if wishes.schedules is not None else now.schedules if now else (),
        watch=wishes.watch if wishes.watch is not None else now.watch if now else (),
        monitor=wishes.monitor if wishes.monitor is not None else now.monitor if now else (),
        event=wishes.event if wishes.event is not None else bool(now and now.event),
        approval=None if approval == "recipe" else cast("Any", approval),
        work=wishes.work or (now.work if now else None),
        paused=wishes.paused,
    )


def _as_found(path: str, environment: Environment) -> str:
    """Return a recipe's whole path where its runs start on this machine, so that they find what is read here."""
    here = environment.pool.type == "process" and Path(environment.home).is_dir() and not is_remote(path)
    return os.path.abspath(user_path(path)) if here else path


def _check_stays(environment: Environment, there: DeploymentResponse) -> None:
    """Raise ConflictError if the deployment is another environment's or pool's: its runs would wait for a worker."""
    pool = there.work_pool_name or ""
    if environment.name not in there.tags or pool != environment.pool.name:
        raise ConflictError(
            f"{FLOW}/{there.name} is deployed to another environment: pool {pool}, tags {', '.join(there.tags)}; here "
            f"it is {environment.name}, pool {environment.pool.name}. Name the environment with --env; one that is "
            "named takes it over"
        )


def _same_recipe(one: str, other: str) -> bool:
    """Say whether two paths mean one recipe, by a link too where both are on this machine."""
    try:
        return one == other or os.path.samefile(one, other)
    except OSError:
        return False


def _check_same(model: str, deployment: Deployment, now: Deployed) -> None:
    """Raise ConflictError if the model's deployment runs another recipe."""
    ours = deployment.parameters["recipe"]
    if not _same_recipe(now.recipe, ours):
        raise ConflictError(
            f"{deployment.full_name} retrains {now.recipe}, which publishes {model!r} too; two recipes of one model "
            f"would replace each other's versions: give {ours} another publish.name, or remove the other first "
            f"(`reglage deploy --remove {model}`)"
        )


def _there(client: SyncPrefectClient, there: DeploymentResponse) -> Deployed:
    """Return a deployment of the server as what was once said of it."""
    overrides = cast("Sequence[str]", there.parameters.get("overrides") or ())
    approvals = [text.removeprefix(_APPROVAL) for text in overrides if text.startswith(_APPROVAL)]
    owner = next((tag for tag in there.tags if is_owner(tag)), "")
    looks = {flow: _look(client, flow, there.name, owner) for flow in LOOKS}
    flow = client.read_flow(there.flow_id)
    return Deployed(
        deployment=f"{flow.name}/{there.name}",
        model=next((tag for tag in there.tags if there.name.startswith(tag)), there.name),
        recipe=str(there.parameters["recipe"]),
        schedules=_schedules(there),
        event=bool(owned_automations(client, there.id)),
        watch=_schedules(looks["watch"]),
        monitor=_schedules(looks["monitor"]),
        approval=approvals[-1] if approvals else "",
        work=str(there.parameters.get("work", "work")),
        paused=there.paused,
        pool=there.work_pool_name or "",
        owner=owner.partition(":")[2],
    )


def _schedules(there: DeploymentResponse | None) -> tuple[Schedule, ...]:
    """Return when a deployment runs by itself; not checked: a person may have made it in the UI."""
    return tuple(
        Schedule.model_construct(cron=cron, timezone=getattr(one.schedule, "timezone", None), active=one.active)
        for one in (there.schedules if there else ())
        if (cron := getattr(one.schedule, "cron", None))
    )


def _has_worker(client: SyncPrefectClient, pool: str) -> bool:
    return any(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(pool))
