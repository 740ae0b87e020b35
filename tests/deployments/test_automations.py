"""What Prefect's server does by itself: triggers, as it reads them, against events as it makes them."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

from deployments.automations import AGAIN, RUNS_AGAIN, automations
from deployments.deployment import job_variables
from deployments.environment import Environment
from deployments.heartbeat import HEARTBEAT, HEARTBEAT_SECONDS
from ftlib.errors import RecipeError


def test_the_patience_follows_the_heartbeat(monkeypatch: pytest.MonkeyPatch):
    for told, beat in (("30", 30), (None, HEARTBEAT_SECONDS)):
        monkeypatch.delenv(HEARTBEAT, raising=False)
        if told:
            monkeypatch.setenv(HEARTBEAT, told)
        gone, at_once, never, *_ = automations()
        assert at_once.trigger.within == gone.trigger.within
        assert gone.trigger.within == timedelta(seconds=3 * beat)
        assert never.trigger.within > timedelta(minutes=10)


@pytest.mark.parametrize("elsewhere", [30, 180])
def test_whoever_applies_installs_the_same_and_runs_beat_so_whoever_starts_them(elsewhere: int):
    """The applying process, as `up`'s setup or a shell, may hold other settings of Prefect's."""
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: elsewhere}):
        assert automations()[0].trigger.within == timedelta(seconds=3 * HEARTBEAT_SECONDS)
        assert job_variables(Environment())["env"][HEARTBEAT] == str(HEARTBEAT_SECONDS)


def test_without_heartbeats_it_refuses(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(HEARTBEAT, "")
    with pytest.raises(RecipeError, match=HEARTBEAT):
        automations()


def event(state: str, flow: str = "retrain", deployed: bool = True) -> ReceivedEvent:
    """An event as Prefect's server makes it of a run's new state."""
    roles = {"flow": flow, **({"deployment": "of-a-recipe"} if deployed else {})}
    related = [
        {"prefect.resource.id": f"prefect.{role}.1", "prefect.resource.role": role, "prefect.resource.name": name}
        for role, name in roles.items()
    ]
    resource = {"prefect.resource.id": "prefect.flow-run.9", "prefect.run-count": "1"}
    return ReceivedEvent(
        id=uuid4(), occurred=datetime.now(UTC), event=f"prefect.flow-run.{state}", resource=resource, related=related
    )


@pytest.fixture
def again() -> tuple[EventTrigger, EventTrigger]:
    """As the server reads them: what runs a run again, and what does so no more."""
    *_, again, no_more = automations()
    on_the_server = (EventTrigger.model_validate(one.trigger.model_dump(mode="json")) for one in (again, no_more))
    return next(on_the_server), next(on_the_server)


def test_only_what_crashed_is_run_again_and_only_where_a_worker_can(again: tuple[EventTrigger, EventTrigger]):
    trigger, _ = again
    assert trigger.covers(event("Crashed"))
    starts = {s for s in ("Crashed", "Failed", "TimedOut", "Cancelled", "Cancelling", "Suspended", "Completed") if
              trigger.starts_after(f"prefect.flow-run.{s}")}  # fmt: skip
    assert starts == {"Crashed"}
    assert not trigger.covers(event("Crashed", flow="promote"))  # an alias: decided against what may have changed
    assert not trigger.covers(event("Crashed", flow="interpolate"))  # the folder that it made would be in its way
    assert not trigger.covers(event("Crashed", flow="somebody-s"))
    assert not trigger.covers(event("Crashed", deployed=False))


def test_a_second_report_of_one_crash_or_a_person_s_retry_comes_first(again: tuple[EventTrigger, EventTrigger]):
    trigger, _ = again
    assert trigger.posture.value == "Proactive"
    for heard in ("Crashed", "AwaitingRetry", "Scheduled", RUNS_AGAIN, "Running", "heartbeat"):
        assert trigger.expects(f"prefect.flow-run.{heard}")
    assert trigger.within >= timedelta(seconds=30)  # a worker's two reports have been seen 19 s apart


def test_it_is_run_again_twice_and_a_person_s_retries_do_not_count(again: tuple[EventTrigger, EventTrigger]):
    _, trigger = again
    assert (trigger.threshold, AGAIN) == (3, 2)
    assert trigger.expects(f"prefect.flow-run.{RUNS_AGAIN}")
    assert not trigger.expects("prefect.flow-run.AwaitingRetry")
    assert {*trigger.for_each} == {"prefect.resource.id"}


def test_a_run_that_died_before_its_first_heartbeat_is_found_and_others_that_never_beat_are_left():
    _, at_once, *_ = automations()
    trigger = EventTrigger.model_validate(at_once.trigger.model_dump(mode="json"))
    assert trigger.starts_after("prefect.flow-run.Running")
    assert trigger.expects("prefect.flow-run.heartbeat")
    assert trigger.covers(event("Running"))
    assert not trigger.covers(event("Running", flow="somebody-s"))
