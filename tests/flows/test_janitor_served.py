"""The janitor on a server, a Ray head, a registry and a work folder that are there: what it shows is what goes."""

import hashlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State, StateType
from prefect.testing.utilities import prefect_test_harness

from flows import janitor as module
from flows.finetune import finetune
from flows.janitor import Cleared, janitor
from flows.retrain import retrain
from flows.retraining.approval import LIMIT
from flows.retraining.challenge import listing_of
from ftlib.registry import ModelRegistry
from ftlib.registry.garbage_collection import DAY, Collector
from ftlib.storage import LocalStore
from ftlib.storage.leases import LEASES, Lease, utc_now
from ftlib.storage.sealed_records import record_bytes
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl
from ftlib.work_collection import WorkCollector
from ftlib.workspace import leave, user_cache
from infra.ray_head import ray_head

pytestmark = [pytest.mark.prefect, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

GARBAGE, LEASE = f"blobs/sha256/ff/{'f' * 64}", "a" * 32
OURS, OTHERS = f"{LIMIT}tiny-router", "somebody-else-s"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


class Place:
    """A user's folder after two runs of one recipe, with what killed processes leave beside what is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recipe = folder, tiny_recipe(folder)
        self.work, self.registry = folder / "work", folder / "registry"
        write_jsonl(folder / "home.jsonl", tiny_rows(100))
        self.day = 0
        self.run()
        write_jsonl(folder / "home.jsonl", tiny_rows(120))
        self.first = self.outputs()
        self.run()

    def leave_behind(self) -> None:
        """Leave what processes that were killed days ago do: in the registry, and in the user's cache."""
        store = LocalStore(self.registry)
        store.create(GARBAGE, b"of a publisher that died")
        record = Lease(holds=("blobs/sha256/ee/" + "e" * 64,), who="a publisher that died", at=utc_now())
        store.create(f"{LEASES}/{LEASE}-00000001.json", record_bytes(record))
        for self.day in (1, 2):
            Collector(ModelRegistry(store), 30 * DAY, clock=self.clock).collect(delete=True)
        self.day = 3
        left = self.registry / ".tmp" / "half-written"
        pulled = user_cache() / "versions" / "v1" / "weights"
        for path in (left, pulled):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("1")
            for old in (path, path.parent):
                os.utime(old, (1, 1))

    def clock(self) -> float:
        return time.time() + self.day * DAY

    def run(self) -> Any:
        """Run the recipe, whose rows another has changed."""
        record = finetune(str(self.recipe), work=str(self.work), return_state=True).result()
        leave(self.work)
        return record

    def outputs(self) -> set[str]:
        return {str(path.parent.relative_to(self.work)) for path in self.work.glob("stages/*/*/artifact.json")}

    def files(self) -> dict[str, str]:
        """Return every file's digest, by its path."""
        found = (path for path in self.folder.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def clear(self, ray: str, **given: Any) -> dict[str, Cleared]:
        state = janitor(
            work=str(self.work), registries=[str(self.registry)], grace_days=0, keep_days=0, cache=True,
            ray_address=ray, return_state=True, **given,
        )  # fmt: skip
        leave(self.work)
        assert state.is_completed(), state.message
        found: list[Cleared] = state.result()
        assert [one.trouble for one in found if one.trouble] == []
        with get_client(sync_client=True) as client:
            of_it = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
            (page,) = client.read_artifacts(artifact_filter=of_it)
        named = [f"`{name}`" for one in found for name in one.found]
        assert all(name in str(page.data) for name in named)
        return {one.what: one for one in found}


def given(jobs: Any, metadata: dict[str, str]) -> str:
    """Give a head a job that lasts; one that has just started may have no agent yet."""
    deadline = time.monotonic() + 120
    while True:
        try:
            return jobs.submit_job(entrypoint="sleep 600", metadata=metadata)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(1)


def a_run(state: StateType) -> str:
    """Make a retraining that is in a state; return its id."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(retrain)
        become(str(run.id), state)
    return str(run.id)


def become(run: str, state: StateType) -> None:
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(run), State(type=state), force=True)


def held() -> dict[str, int]:
    with get_client(sync_client=True) as client:
        return {limit.name: limit.active_slots for limit in client.read_global_concurrency_limits()}


@pytest.fixture
def place(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "RESTS", timedelta(0))  # the server dates states itself
    with get_client(sync_client=True) as client:
        for name in (OURS, OTHERS):
            client.upsert_global_concurrency_limit_by_name(name, 1)
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=1))
    made = Place(tmp_path)

    def later(*words: Any) -> WorkCollector:
        return WorkCollector(*words, clock=lambda: time.time() + 7200)  # the hour is over in which all stays

    def looks(registry: ModelRegistry, grace: float) -> Collector:
        return Collector(registry, grace, clock=made.clock)

    monkeypatch.setattr("ftlib.published.work_roots.WorkCollector", later)
    monkeypatch.setattr(module, "Collector", looks)
    return made


def test_what_it_shows_is_what_goes_and_what_somebody_needs_stays(place: Place) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    ended, waits, goes_on = (a_run(state) for state in (StateType.CRASHED, StateType.PAUSED, StateType.RUNNING))
    listing = place.work / listing_of(waits)
    listing.parent.mkdir(exist_ok=True)
    listing.write_text("{}")
    os.utime(listing, (time.time() - 3600,) * 2)  # it waits since before both runs: it may need what they used
    with ray_head() as ray:
        jobs = JobSubmissionClient(ray)
        started = {
            who: given(jobs, metadata)
            for who, metadata in {
                "ended": {"started_by": ended},
                "waits": {"started_by": waits},
                "a command line": {"reglage_run": "train-0"},
                "somebody": {},
            }.items()
        }

        def stopped() -> set[str]:
            return {who for who, job in started.items() if jobs.get_job_status(job) == JobStatus.STOPPED}

        busy = place.clear(ray, delete=True)
        assert (busy["jobs of runs that ended"].found, busy["slots that no run holds"].found) == ((), ())
        assert not any(name.startswith("stages/") for name in busy["work nobody needs"].found)
        assert (held()[OURS], stopped()) == (1, set())

        become(goes_on, StateType.COMPLETED)
        become(waits, StateType.CANCELLED)
        place.leave_behind()
        before, slots = place.files(), held()
        shown = place.clear(ray)
        assert place.files() == before
        assert (held(), stopped()) == (slots, set())
        done = place.clear(ray, delete=True)
        assert {what: one.found for what, one in done.items()} == {what: one.found for what, one in shown.items()}
        assert shown["jobs of runs that ended"].found == (started["ended"], started["waits"])
        deadline = time.monotonic() + 60
        while stopped() != {"ended", "waits"}:
            assert time.monotonic() < deadline, stopped()
            time.sleep(0.5)
    assert held() == slots | {OURS: 0}
    after = place.files()
    went = before.keys() - after.keys()
    assert {path for path in before.keys() & after.keys() if before[path] != after[path]} == set()
    assert {Path(path).parent.name for path in after.keys() - before.keys()} == {"gc"}  # what it saw, for the next look
    here = {"the Prefect server": "", str(place.work): "work", str(place.registry): "registry"}
    here[str(user_cache())] = "cache/reglage"
    named = [f"{here.get(one.where, one.where)}/{name}" for one in done.values() for name in one.found]
    named.append(f"registry/{LEASES}/{LEASE}-00000001.json")
    paths = [path.removeprefix(f"{place.folder}/") for path in went]
    assert [path for path in paths if not any(path == name or path.startswith(f"{name}/") for name in named)] == []
    assert done["objects that no version needs"].found == (GARBAGE,)
    assert done["leases of silent publishers"].found == (LEASE,)
    assert done["half-written files"].found == (".tmp/half-written",)
    assert done["cache nobody needs"].found == ("versions/v1",)
    stages = {name for name in done["work nobody needs"].found if name.startswith("stages/")}
    assert stages
    assert stages < place.first  # of the last run all stays
    assert not listing.exists()

    registry = ModelRegistry(LocalStore(place.registry))
    assert [registry.verify(registry.version("tiny-router", n)) for n in (1, 2)] == [[], []]
    again = place.run()
    assert again.all_done_before()
    assert again.result.version == 2
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(ended)).state_type == StateType.CRASHED  # runs are the server's to delete
