"""What is installed in Prefect's server, on its test server."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from prefect import get_client
from prefect.server.events.schemas.automations import EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness

from deployments.automations import AGAIN, RUNS_AGAIN, automations, install


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.prefect
def test_installing_again_brings_up_to_date_and_adds_nothing(server: None):
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
        assert [line.split(":")[0] for line in install(automations())] == ["created"] * 5
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        wanted = automations()
        assert [line.split(":")[0] for line in install(wanted)] == ["updated"] * 5
    with get_client(sync_client=True) as client:
        for automation in wanted:
            (there,) = client.read_automations_by_name(automation.name)
            assert there.trigger.within == automation.trigger.within
            assert there.actions == automation.actions
            assert all(action.force is False for action in there.actions)


def test_the_patience_follows_the_heartbeat():
    for beat in (30, 180):
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: beat}):
            gone, at_once, never, *_ = automations()
            assert at_once.trigger.within == gone.trigger.within
            assert gone.trigger.within == timedelta(seconds=3 * beat)
            assert never.trigger.within > timedelta(minutes=10)


def test_without_heartbeats_it_refuses():
    with (
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        pytest.raises(SystemExit, match="PREFECT_FLOWS_HEARTBEAT_FREQUENCY"),
    ):
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
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
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
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
        _, at_once, *_ = automations()
    trigger = EventTrigger.model_validate(at_once.trigger.model_dump(mode="json"))
    assert trigger.starts_after("prefect.flow-run.Running")
    assert trigger.expects("prefect.flow-run.heartbeat")
    assert trigger.covers(event("Running"))
    assert not trigger.covers(event("Running", flow="somebody-s"))
