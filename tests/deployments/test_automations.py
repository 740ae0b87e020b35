"""What is installed in Prefect's server, on its test server."""

import importlib.util
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest
from prefect import get_client
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).parents[2] / "deployments" / "automations.py"
    spec = importlib.util.spec_from_file_location("automations", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.mark.prefect
def test_installing_again_brings_up_to_date_and_adds_nothing(script: ModuleType, server: None):
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 60}):
        assert [line.split(":")[0] for line in script.install(script.automations())] == ["created", "created"]
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: 30}):
        wanted = script.automations()
        assert [line.split(":")[0] for line in script.install(wanted)] == ["updated", "updated"]
    with get_client(sync_client=True) as client:
        for automation in wanted:
            (there,) = client.read_automations_by_name(automation.name)
            assert there.trigger.within == automation.trigger.within
            assert there.actions[0].state == "CRASHED"


def test_the_patience_follows_the_heartbeat(script: ModuleType):
    for beat in (30, 180):
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: beat}):
            gone, never = script.automations()
            assert gone.trigger.within == timedelta(seconds=3 * beat)
            assert never.trigger.within > timedelta(minutes=10)


def test_without_heartbeats_it_refuses(script: ModuleType):
    with (
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}),
        pytest.raises(SystemExit, match="PREFECT_FLOWS_HEARTBEAT_FREQUENCY"),
    ):
        script.automations()
