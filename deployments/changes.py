"""What an environment and a Prefect server differ in: each difference can be shown, and be made.

`changes` shows what `deployments.apply` would make, and both come from the same steps. Only what carries the
environment's tag is ever deleted.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
    WorkPoolCreate,
    WorkPoolUpdate,
)
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from deployments.automations import automations
from deployments.deployment import BY_HAND, Deployment, is_owner, wanted
from deployments.environment import Environment, Schedule, WorkPool
from deployments.notifications import is_notice, notices
from deployments.server import connected
from flows.events import CHANGED, DATASET, DRIFT, QUALITY
from ftlib.config import Config
from ftlib.errors import ConflictError

SHOWN = 60
"""Characters of a value that a plan shows."""

_TRIGGERED = " when its data changed"
"""What the name of a deployment's trigger ends with."""

_START = "prefect.deployments.steps.set_working_directory"

Kind = Literal["created", "updated", "deleted", "unchanged"]


class FieldChange(Config):
    """A field that differs; null: it is not there."""

    path: str
    """The field's name, with dots."""
    old: Any = None
    """What the server has."""
    new: Any = None
    """What the environment says."""

    def __str__(self) -> str:
        """Write it as a plan shows it: path: old > new."""
        return f"{self.path}: {_shown(self.old)} > {_shown(self.new)}"


class Change(Config):
    """What becomes of one thing on the server."""

    what: Kind
    """What is done to it."""
    kind: Literal["work pool", "limit", "deployment", "automation"]
    """What it is."""
    name: str
    """What it is called on the server."""
    fields: tuple[FieldChange, ...] = ()
    """What differs; only of what is updated."""

    def lines(self) -> Iterator[str]:
        """Yield a line, and one for each field that differs."""
        yield f"{_SIGNS[self.what]} {self.kind} {self.name}{'' if self.fields else f': {self.what}'}"
        yield from (f"    {field}" for field in self.fields)


_SIGNS = {"created": "+", "updated": "~", "deleted": "-", "unchanged": "="}


@dataclass(frozen=True)
class Step:
    """A change, and how it is made."""

    change: Change
    make: Callable[[], object]


def changes(environment: Environment) -> list[Change]:
    """Return what applying the environment would do, in order; the server is not changed.

    Raises RecipeError for an environment that does not fit together, ConflictError for a name that others own, and
    StorageError or TransientError where there is no server.
    """
    with connected() as client:
        return [step.change for step in steps(client, environment)]


def steps(client: SyncPrefectClient, environment: Environment) -> list[Step]:
    """Return everything of an environment, with what is to be done about it."""
    ours = wanted(environment)
    return [
        pool_step(client, environment.pool),
        *(_limit_step(client, name, limit) for name, limit in environment.limits.items()),
        *(deployment_step(client, one) for one in ours),
        *_deletions(client, environment, {one.full_name for one in ours}),
        *(_automation_step(client, one) for one in automations()),
        *_notice_steps(client, environment),
    ]


def _notice_steps(client: SyncPrefectClient, environment: Environment) -> Iterator[Step]:
    """Yield a step for every automation that tells somebody something, and for those that tell what nobody asks for."""
    told = notices(client, environment.notifications, environment.name)
    yield from (_automation_step(client, one) for one in told)
    names = {one.name for one in told}
    for existing in client.read_automations():
        if is_notice(existing.name, environment.name) and existing.name not in names:
            change = Change(what="deleted", kind="automation", name=existing.name)
            yield Step(change, lambda existing=existing: client.delete_automation(existing.id))


def pool_step(client: SyncPrefectClient, pool: WorkPool) -> Step:
    """Compare the work pool. Raises ConflictError for a pool of another type."""
    try:
        existing = client.read_work_pool(pool.name)
    except ObjectNotFound:
        template = pool.template()  # of a type of containers without one, its worker adds it
        if pool.type == "process" and not template:
            template = ProcessWorker.get_default_base_job_template()
        create = WorkPoolCreate(
            name=pool.name, type=pool.type, concurrency_limit=pool.limit, base_job_template=template
        )
        return _created("work pool", pool.name, lambda: client.create_work_pool(create))
    if existing.type != pool.type:
        raise ConflictError(
            f"work pool {pool.name} is of type {existing.type} on the server, and here of {pool.type}; a pool's type "
            "cannot be changed: name another pool"
        )
    template = pool.template()
    update = WorkPoolUpdate(concurrency_limit=pool.limit, base_job_template=template or None)
    return _compared(
        "work pool",
        pool.name,
        {"limit": existing.concurrency_limit, **({"job_template": existing.base_job_template} if template else {})},
        {"limit": pool.limit, **({"job_template": template} if template else {})},
        lambda: client.update_work_pool(pool.name, update),
    )


def _limit_step(client: SyncPrefectClient, name: str, limit: int) -> Step:
    try:
        existing = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        create = GlobalConcurrencyLimitCreate(name=name, limit=limit)
        return _created("limit", name, lambda: client.create_global_concurrency_limit(create))
    update = GlobalConcurrencyLimitUpdate(limit=limit)
    return _compared(
        "limit",
        name,
        {"limit": existing.limit},
        {"limit": limit},
        lambda: client.update_global_concurrency_limit(name, update),
    )


def deployment_step(client: SyncPrefectClient, one: Deployment) -> Step:
    """Compare a deployment and its trigger. Raises ConflictError where the name belongs to somebody else."""
    existing = find(client, one.full_name)
    if existing is None:
        return _created("deployment", one.full_name, lambda: write(client, one, None))
    _check_owner(one, existing)
    return _compared(
        "deployment",
        one.full_name,
        _facts_existing(existing, owned_automations(client, existing.id)),
        _facts_wanted(one, existing),
        lambda: write(client, one, existing),
    )


def find(client: SyncPrefectClient, full_name: str) -> DeploymentResponse | None:
    """Return the deployment of a name, if there is one."""
    try:
        return client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return None


def _check_owner(one: Deployment, existing: DeploymentResponse) -> None:
    owner = next((tag for tag in existing.tags if is_owner(tag)), None)
    if owner is None and existing.entrypoint != one.entrypoint:
        raise ConflictError(
            f"{one.full_name} is on the server and not Réglage's ({existing.entrypoint}); delete or rename it, or give "
            "the environment a suffix"
        )
    if owner not in (None, one.owner):
        who = "`reglage deploy`" if owner == BY_HAND else f"the environment {owner.partition(':')[2]!r}"
        raise ConflictError(
            f"{one.full_name} belongs to {who} on this server; remove it there, or give the environment a suffix"
        )


def _deletions(client: SyncPrefectClient, environment: Environment, kept: set[str]) -> Iterator[Step]:
    """Yield a step for every deployment with the environment's tag that it has no more."""
    names = {flow.id: flow.name for flow in client.read_flows()}
    for existing in tagged(client, environment.tag):
        full_name = f"{names[existing.flow_id]}/{existing.name}"
        if full_name not in kept:
            yield Step(
                Change(what="deleted", kind="deployment", name=full_name),
                lambda existing=existing: delete(client, existing),
            )


def tagged(client: SyncPrefectClient, tag: str) -> list[DeploymentResponse]:
    """Return the deployments that carry a tag."""
    found: list[DeploymentResponse] = []
    carry = DeploymentFilter(tags=DeploymentFilterTags(all_=[tag]))
    while page := client.read_deployments(deployment_filter=carry, limit=100, offset=len(found)):
        found += page
    return found


def delete(client: SyncPrefectClient, existing: DeploymentResponse) -> None:
    """Delete a deployment with its trigger; its runs stay."""
    _delete_triggers(client, existing.id)
    client.delete_deployment(existing.id)


def write(client: SyncPrefectClient, one: Deployment, existing: DeploymentResponse | None) -> None:
    """Create a deployment, or make the one that is there equal; its runs, and what a person switched off, stay."""
    active = {f"schedule-{i}": schedule.active for i, schedule in enumerate(_settled(one, existing), start=1)}
    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=schedule.cron, timezone=schedule.timezone),
            active=bool(active[f"schedule-{i}"]),
            slug=f"schedule-{i}",
        )
        for i, schedule in enumerate(one.schedules, start=1)
    ]
    queue = ConcurrencyOptions(collision_strategy=ConcurrencyLimitStrategy.ENQUEUE) if one.one_at_a_time else None
    made = client.create_deployment(  # an upsert, in one transaction
        flow_id=client.create_flow_from_name(one.flow),
        name=one.name,
        version=one.version,
        description=one.description,
        tags=list(one.tags),
        parameters=one.parameters,
        entrypoint=one.entrypoint,
        path=None,
        work_pool_name=one.pool,
        job_variables=one.job_variables,
        pull_steps=_pull_steps(one.home),
        parameter_openapi_schema=one.form,
        enforce_parameter_schema=True,
        schedules=schedules,
        concurrency_limit=1 if one.one_at_a_time else None,
        concurrency_options=queue,
        paused=_paused(one, existing),
    )
    _delete_triggers(client, made)
    if trigger := _trigger(one, made, enabled=not _paused(one, existing)):
        client.create_automation(trigger)


def _pull_steps(home: str) -> list[dict[str, Any]]:
    """Return how a run finds its folder: the code is installed where it runs, and nothing is cloned or installed."""
    return [{_START: {"directory": home}}]


def _home(steps: list[dict[str, Any]]) -> Any:
    """Return the folder that a run starts in; the steps as they are where they are not ours."""
    homes = [step[_START]["directory"] for step in steps if list(step) == [_START]]
    return homes[0] if len(homes) == len(steps) == 1 else steps


def _paused(one: Deployment, existing: DeploymentResponse | None) -> bool:
    return one.paused if one.paused is not None else existing is not None and existing.paused


def _settled(one: Deployment, existing: DeploymentResponse | None) -> list[Schedule]:
    """Return the schedules with their switch decided: as it is on the server where the environment leaves it open."""
    switched = {schedule.slug: schedule.active for schedule in existing.schedules} if existing else {}
    return [
        schedule.model_copy(
            update={"active": switched.get(f"schedule-{i}", True) if schedule.active is None else schedule.active}
        )
        for i, schedule in enumerate(one.schedules, start=1)
    ]


def _trigger(one: Deployment, deployment: UUID, enabled: bool) -> AutomationCore | None:
    """Return the automation that starts a deployment when its data changed, or its model's answers did."""
    if not one.datasets:
        return None
    trigger = DeploymentEventTrigger(
        name=f"{one.full_name}{_TRIGGERED}",
        enabled=enabled,
        match={"prefect.resource.id": [DATASET + name for name in one.datasets]},  # pyright: ignore[reportArgumentType]
        expect={CHANGED, DRIFT, QUALITY},
    )
    trigger.set_deployment_id(deployment)
    return trigger.as_automation()


def owned_automations(client: SyncPrefectClient, deployment: UUID) -> list[Automation]:
    """Return the triggers of a deployment, but no automation that a person made to run it."""
    related = client.read_resource_related_automations(f"prefect.deployment.{deployment}")
    return [one for one in related if one.name.endswith(_TRIGGERED)]


def _delete_triggers(client: SyncPrefectClient, deployment: UUID) -> None:
    client.delete_resource_owned_automations(f"prefect.deployment.{deployment}")
    for twin in owned_automations(client, deployment):  # the server has others that the deployment does not own
        client.delete_automation(twin.id)


def _facts_wanted(one: Deployment, existing: DeploymentResponse) -> dict[str, Any]:
    """Return what a deployment ought to be, by the names under which a plan shows it."""
    trigger = _trigger(one, existing.id, enabled=not _paused(one, existing))
    return {
        "entrypoint": one.entrypoint,
        "description": one.description,
        "version": one.version,
        "tags": sorted(one.tags),
        "parameters": one.parameters,
        "pool": one.pool,
        "home": one.home,
        "job_variables": one.job_variables,
        "limit": 1 if one.one_at_a_time else None,
        "schedules": {
            f"schedule-{i}": {"cron": schedule.cron, "timezone": schedule.timezone, "active": schedule.active}
            for i, schedule in enumerate(_settled(one, existing), start=1)
        },
        "paused": _paused(one, existing),
        "form": one.form.get("properties", {}),
        "triggers": _trigger_facts([trigger] if trigger else []),
    }


def _facts_existing(existing: DeploymentResponse, owned: Iterable[AutomationCore]) -> dict[str, Any]:
    """Return what a deployment is on the server, by the same names."""
    return {
        "entrypoint": existing.entrypoint,
        "description": existing.description,
        "version": existing.version,
        "tags": sorted(existing.tags),
        "parameters": existing.parameters,
        "pool": existing.work_pool_name,
        "home": _home(existing.pull_steps or []),
        "job_variables": existing.job_variables,
        "limit": existing.global_concurrency_limit.limit if existing.global_concurrency_limit else None,
        "schedules": {
            schedule.slug or str(i): _schedule_facts(schedule.schedule, schedule.active)
            for i, schedule in enumerate(existing.schedules)
        },
        "paused": existing.paused,
        "form": (existing.parameter_openapi_schema or {}).get("properties", {}),
        "triggers": _trigger_facts(owned),
    }


def _schedule_facts(schedule: Any, active: bool) -> dict[str, Any]:
    facts = schedule.model_dump(mode="json", include={"cron", "timezone", "interval", "rrule"})
    return {**facts, "active": active}


def _trigger_facts(owned: Iterable[AutomationCore]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for one in owned:
        name = one.name
        while name in facts:  # two that were applied at once: each would start a run
            name += " again"
        facts[name] = automation_facts(one)
    return facts


def automation_facts(one: AutomationCore) -> dict[str, Any]:
    """Return what an automation does, without the identities that a server gives."""
    facts = one.model_dump(mode="json", include={"description", "enabled", "trigger", "actions"})
    return cast("dict[str, Any]", _without_ids(facts))


def _without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {key: _without_ids(member) for key, member in members.items() if key != "id" and member is not None}
    if isinstance(value, list):
        return sorted(map(_without_ids, cast("list[Any]", value)), key=repr)
    return value


def _automation_step(client: SyncPrefectClient, one: AutomationCore) -> Step:
    """Compare an automation by its name; twins of it go."""
    found = client.read_automations_by_name(one.name)
    if not found:
        return _created("automation", one.name, lambda: client.create_automation(one))

    def make() -> None:
        client.update_automation(found[0].id, one)
        for twin in found[1:]:
            client.delete_automation(twin.id)

    existing, planned = automation_facts(found[0]), automation_facts(one)
    if len(found) > 1:
        existing, planned = {**existing, "count": len(found)}, {**planned, "count": 1}
    return _compared("automation", one.name, existing, planned, make)


def _created(kind: Any, name: str, make: Callable[[], object]) -> Step:
    return Step(Change(what="created", kind=kind, name=name), make)


def _compared(
    kind: Any, name: str, existing: Mapping[str, Any], planned: Mapping[str, Any], make: Callable[[], object]
) -> Step:
    """Return the step that makes a thing on the server equal to what it ought to be."""
    old, new = dict(_flat(existing)), dict(_flat(planned))
    fields = tuple(
        FieldChange(path=path, old=old.get(path), new=new.get(path))
        for path in dict.fromkeys([*old, *new])
        if old.get(path) != new.get(path)
    )
    return Step(Change(what="updated" if fields else "unchanged", kind=kind, name=name, fields=fields), make)


def _flat(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every member that is no mapping, with its path."""
    for key, member in value.items():
        name = f"{path}.{key}" if path else key
        if isinstance(member, dict):
            yield from _flat(cast("dict[str, Any]", member), name)
        else:
            yield name, member


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
