"""What Prefect's server does by itself, installed or brought up to date: `python deployments/automations.py`.

Without these a run whose worker died stays Running for ever, and one whose worker died while it started stays Pending
and keeps its deployment's only slot. One that crashed is run again, by the server alone: the same run, so with the
same page and parameters, and Prefect's own count of its attempts, which outlives every process, says when to stop.
Running this again changes nothing.
"""

from datetime import timedelta

from prefect import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import EventTrigger, ResourceSpecification
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, Posture
from prefect.settings import get_current_settings

BEATS = 3
"""Heartbeats that may be missing before a run counts as dead."""

START = timedelta(minutes=15)
"""How long a run may be Pending: a worker that pulls a large image first needs some minutes."""

AGAIN = 2
"""How often a run that crashed is run again by itself."""

RESUMING = ("finetune", "retrain", "evaluate", "interpolate")
"""The flows that go on from where they were. One that moves an alias is for a person to repeat: it may be too late."""


def automations() -> list[AutomationCore]:
    """Return what is to be installed; runs beat every PREFECT_FLOWS_HEARTBEAT_FREQUENCY seconds (180)."""
    beat = get_current_settings().flows.heartbeat_frequency
    if beat is None:
        raise SystemExit("PREFECT_FLOWS_HEARTBEAT_FREQUENCY is off: a dead run cannot be told from a quiet one; set it")
    silence = timedelta(seconds=BEATS * beat)
    return [
        _crash(
            "reglage: runs whose process is gone",
            after="prefect.flow-run.heartbeat",
            within=silence,
            message=f"No heartbeat for {silence}: the process is gone. Run it again; it goes on from where it was.",
        ),
        _crash(
            "reglage: runs that never start",
            after="prefect.flow-run.Pending",
            within=START,
            message=f"Pending for {START}: the worker died while it started the run. Run it again.",
        ),
        _run_again("reglage: crashed runs go on"),
    ]


def _run_again(name: str) -> AutomationCore:
    """Schedule a crashed run again, while its count says so; one that failed or was cancelled is not Crashed."""
    return AutomationCore(
        name=name,
        trigger=EventTrigger(
            match=ResourceSpecification(
                {
                    "prefect.resource.id": ["prefect.flow-run.*"],
                    "prefect.run-count": [str(attempt) for attempt in range(1, AGAIN + 1)],
                }
            ),
            match_related=[
                ResourceSpecification({"prefect.resource.role": ["flow"], "prefect.resource.name": [*RESUMING]}),
                ResourceSpecification({"prefect.resource.role": ["deployment"]}),  # no worker starts a run without one
            ],
            expect={"prefect.flow-run.Crashed"},
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[
            ChangeFlowRunState(
                name="AwaitingRetry",
                state=StateType.SCHEDULED,
                message=f"Its process was gone. It is run again by itself, {AGAIN} times at most, and goes on from "
                "where it was.",
                force=False,
            )
        ],
    )


def _crash(name: str, after: str, within: timedelta, message: str) -> AutomationCore:
    """Crash a run of which nothing is heard any more; any event of it counts, whatever its state is called."""
    return AutomationCore(
        name=name,
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            after={after},
            expect={"prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=within,
        ),
        actions=[ChangeFlowRunState(name="Crashed", state=StateType.CRASHED, message=message, force=False)],
    )


def install(wanted: list[AutomationCore]) -> list[str]:
    """Create or update each by its name, and return a line for each."""
    said: list[str] = []
    with get_client(sync_client=True) as client:
        for automation in wanted:
            there = client.read_automations_by_name(automation.name)
            for twin in there[1:]:
                client.delete_automation(twin.id)
            if there:
                client.update_automation(there[0].id, automation)
            else:
                client.create_automation(automation)
            said.append(f"{'updated' if there else 'created'}: {automation.name}")
    return said


if __name__ == "__main__":
    print("\n".join(install(automations())))
