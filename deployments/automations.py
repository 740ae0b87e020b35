"""What Prefect's server does by itself.

Without these a run whose worker died stays Running for ever, and one whose worker died while it started stays Pending
and keeps its deployment's only slot. One that crashed is run again, by the server alone: the same run, so with the
same page and parameters.
"""

from collections.abc import Sequence
from datetime import timedelta

from prefect.client.schemas.objects import StateType
from prefect.events import EventTrigger, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, Posture

from deployments.deployment import STANDING
from deployments.heartbeat import heartbeat
from deployments.resuming import RESUMING

BEATS = 3
"""Heartbeats that may be missing before a run counts as dead."""

START = timedelta(minutes=15)
"""How long a run may be Pending: a worker that pulls a large image first needs some minutes."""

AGAIN = 2
"""How often a run that crashed is run again by itself."""

RUNS_AGAIN = "RunsAgain"
"""The state of a run that waits to be run again by itself; one that a person retries is AwaitingRetry."""

PAUSE = timedelta(seconds=60)
"""How long nothing must be heard of a crashed run before it is run again."""

FLOWS = tuple(STANDING)
"""Réglage's flows; a server may hold others'."""


def _named(*flows: str) -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.role": ["flow"], "prefect.resource.name": [*flows]})


_RESUMABLE = [
    _named(*RESUMING),
    ResourceSpecification({"prefect.resource.role": ["deployment"]}),  # no worker starts a run without one
]


def automations() -> list[AutomationCore]:
    """Return what is to be installed. Raises RecipeError for a heartbeat that Prefect does not take."""
    silence = timedelta(seconds=BEATS * heartbeat())
    return [
        _crash(
            "reglage: runs whose process is gone",
            after="prefect.flow-run.heartbeat",
            within=silence,
            message=f"No heartbeat for {silence}: the process is gone. Run it again; it goes on from where it was.",
        ),
        _crash(
            "reglage: runs that died before their first heartbeat",
            after="prefect.flow-run.Running",
            within=silence,
            message=f"No heartbeat for {silence}: the process is gone. Run again, it goes on from where it was.",
            related=[_named(*FLOWS)],  # others' may run without any heartbeat
        ),
        _crash(
            "reglage: runs that never start",
            after="prefect.flow-run.Pending",
            within=START,
            message=f"Pending for {START}: the worker died while it started the run. Run it again.",
        ),
        _run_again("reglage: crashed runs go on"),
        _run_no_more("reglage: runs that crash again and again"),
    ]


def _run_again(name: str) -> AutomationCore:
    """Schedule a crashed run again; one that failed or was cancelled is not Crashed.

    Not at once: a worker reports a dead process twice, some seconds apart, and the second report would crash the run
    that goes on already, beside whose process a third would be started.
    """
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=[*_RESUMABLE],
        after={"prefect.flow-run.Crashed"},
        expect={"prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=PAUSE,
    )
    message = f"Its process is gone. It is run again by itself, {AGAIN} times at most, and goes on from where it was."
    return _change(name, trigger, RUNS_AGAIN, StateType.SCHEDULED, message)


def _run_no_more(name: str) -> AutomationCore:
    """End a run that was run again too often.

    The server's database holds the count, by event: Prefect's own count of attempts leaves out those that die before
    their first line, which would go on for ever.
    """
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=[*_RESUMABLE],
        expect={f"prefect.flow-run.{RUNS_AGAIN}"},
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=AGAIN + 1,
        within=timedelta(days=7),
    )
    message = f"It crashed {AGAIN + 1} times: look why, then press Retry; it goes on from where it was."
    return _change(name, trigger, "Failed", StateType.FAILED, message)


def _crash(
    name: str, after: str, within: timedelta, message: str, related: Sequence[ResourceSpecification] = ()
) -> AutomationCore:
    """Crash a run of which nothing is heard any more; any event of it counts, whatever its state is called."""
    trigger = EventTrigger(
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        match_related=[*related],
        after={after},
        expect={"prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=within,
    )
    return _change(name, trigger, "Crashed", StateType.CRASHED, message)


def _change(name: str, trigger: EventTrigger, state: str, kind: StateType, message: str) -> AutomationCore:
    change = ChangeFlowRunState(name=state, state=kind, message=message, force=False)
    return AutomationCore(name=name, trigger=trigger, actions=[change])
