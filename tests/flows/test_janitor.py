"""Clearing away: what is shown without `delete` is what goes with it, and what somebody uses stays."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.utilities.callables import parameter_schema

from deployments.deployment import STANDING
from flows import janitor as module
from flows.janitor import TRAINING, Cleared, janitor
from ftlib.errors import RecipeError, TransientError
from ftlib.on_ray import jobs
from ftlib.registry import ModelRegistry
from ftlib.registry.versions import Manifest, file_of
from ftlib.storage import LocalStore
from ftlib.workspace import user_cache


class Server:
    """Prefect's server, with its runs and limits."""

    def __init__(self) -> None:
        self.going_on: list[object] = []
        self.limits = {"reglage-retrain-router": 1, "reglage-retrain-idle": 0, "somebody-else-s": 1}
        self.runs: dict[UUID, State] = {}
        self.page = ""

    def read_flow_runs(self, **_: Any) -> list[object]:
        return self.going_on

    def read_flow_run(self, run: UUID) -> Any:
        if run not in self.runs:
            raise ObjectNotFound(Exception("404"))
        return SimpleNamespace(state=self.runs[run])

    def read_global_concurrency_limits(self) -> list[Any]:
        return [SimpleNamespace(name=name, active_slots=held) for name, held in self.limits.items()]

    def update_global_concurrency_limit(self, name: str, update: Any) -> None:
        self.limits[name] = update.active_slots

    def request(self, method: str, path: str, json: dict[str, Any]) -> Any:
        assert (method, path) == ("POST", "/flow_runs/count")
        return SimpleNamespace(json=lambda: 3 if json else 12)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    made = Server()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    @contextmanager
    def client(sync_client: bool) -> Iterator[Server]:
        yield made

    def shown(key: str, markdown: str, description: str) -> None:
        made.page = markdown

    monkeypatch.setattr(module, "get_client", client)
    monkeypatch.setattr(module, "show_markdown", shown)
    return made


@pytest.fixture
def clear(tmp_path: Path) -> Callable[..., dict[str, Cleared]]:
    def run(**given: Any) -> dict[str, Cleared]:
        state: State[Any] = janitor.fn(work=str(tmp_path / "work"), **given)
        assert state.is_completed()
        return {one.what: one for one in state.data}

    return run


def test_slots_that_no_run_holds_are_freed_and_others_limits_are_left(
    server: Server, clear: Callable[..., dict[str, Cleared]]
) -> None:
    assert clear()["slots that no run holds"].found == ("reglage-retrain-router",)
    assert server.limits["reglage-retrain-router"] == 1  # shown, no more
    assert "| slots that no run holds | the Prefect server | 1 |" in server.page
    server.going_on = [object()]
    assert clear(delete=True)["slots that no run holds"].found == ()
    assert server.limits["reglage-retrain-router"] == 1  # somebody may hold it
    server.going_on = []
    clear(delete=True)
    assert server.limits == {"reglage-retrain-router": 0, "reglage-retrain-idle": 0, "somebody-else-s": 1}


def test_a_registry_is_collected_by_its_own_rules(
    tmp_path: Path, server: Server, clear: Callable[..., dict[str, Cleared]]
) -> None:
    registry = ModelRegistry(LocalStore(tmp_path / "registry"))
    (tmp_path / "weights").write_text("1")
    manifest = Manifest(name="demo", description="", files=(file_of(tmp_path, "weights"),), metrics={}, lineage={})
    registry.publish(manifest, tmp_path, "1", lambda _: None, tmp_path)
    garbage = f"blobs/sha256/ff/{'f' * 64}"
    registry.store.create(garbage, b"of a publisher that died")
    given: dict[str, Any] = {"registries": [str(tmp_path / "registry")], "grace_days": 0}
    clear(**given)
    assert registry.store.read(garbage) is not None
    clear(**given, delete=True)  # condemned: it takes two that see it so
    assert clear(**given, delete=True)["objects that no version needs"].found == (garbage,)
    assert registry.store.read(garbage) is None
    assert registry.verify(registry.version("demo", 1)) == []


def test_the_work_folder_and_the_cache_are_collected_by_their_own_rules(
    tmp_path: Path, server: Server, clear: Callable[..., dict[str, Cleared]]
) -> None:
    left, old = tmp_path / "work" / "stages" / "train" / f"{'a' * 16}.work", (1, 1)
    fetched = user_cache() / "versions" / "v1"
    for folder in (left, fetched):
        folder.mkdir(parents=True)
        (folder / "weights").write_text("1")
        for path in (folder / "weights", folder):
            os.utime(path, old)
    shown = clear(cache=True)
    assert (len(shown["work nobody needs"].found), shown["cache nobody needs"].found) == (1, ("versions/v1",))
    assert left.is_dir()
    assert fetched.is_dir()
    clear(delete=True)
    assert not left.exists()
    assert fetched.is_dir()  # others' work folders use it
    clear(delete=True, cache=True)
    assert not fetched.exists()
    assert clear(delete=True)["work nobody needs"].found == ()


@pytest.mark.parametrize(
    ("state", "found"), [(StateType.CANCELLED, 1), (StateType.FAILED, 1), (StateType.PAUSED, 0), (None, 0)]
)
def test_a_retraining_that_ended_unanswered_keeps_nobody_from_collecting(
    tmp_path: Path, server: Server, clear: Callable[..., dict[str, Cleared]], state: StateType | None, found: int
) -> None:
    run, hour = uuid4(), 3600
    if state:
        server.runs[run] = State(type=state, timestamp=datetime.now(UTC) - timedelta(hours=1))
    output = tmp_path / "work" / "stages" / "train" / ("a" * 16)
    listing = tmp_path / "work" / "listings" / f"{run}.json"
    for path, age in ((output / "artifact.json", 40), (output.with_suffix(".lock"), 40), (listing, 48)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        os.utime(path, (time.time() - age * hour,) * 2)
    # The listing is older than the output was last used: a run that waits may need it.
    gone = clear(keep_days=1.0, delete=True)["work nobody needs"].found
    assert (f"stages/train/{'a' * 16}" in gone, output.exists()) == (bool(found), not found)
    assert listing.exists() == (not found)


def test_a_registry_that_is_gone_for_good_is_left_out(
    tmp_path: Path, server: Server, clear: Callable[..., dict[str, Cleared]]
) -> None:
    (tmp_path / "work" / "stages").mkdir(parents=True)
    (tmp_path / "work" / "runs" / "tickets").mkdir(parents=True)
    gone = str(tmp_path / "gone")
    recipe = {"publish": {"name": "m", "to": {"kind": "folder", "path": "registry"}}}
    record = {"evidence": {"recipe": recipe}, "result": {"registry": gone}}
    (tmp_path / "work" / "runs" / "tickets" / "run.json").write_text(json.dumps(record))
    assert f"no registry at {gone}" in clear()["work folder"].trouble
    assert clear(ignore_registries=[gone])["work nobody needs"].found == ()


def test_what_cannot_be_looked_at_is_a_line_and_the_rest_is_done(
    tmp_path: Path, server: Server, clear: Callable[..., dict[str, Cleared]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_: str) -> None:
        raise TransientError("no Ray cluster answers")

    monkeypatch.setattr(jobs, "job_client", away)
    found = clear(registries=[str(tmp_path / "none")], ray_address="http://127.0.0.1:1", delete=True)
    assert "there is no registry" in found["registry"].trouble
    assert found["jobs"].trouble == "no Ray cluster answers"
    assert found["slots that no run holds"].found == ("reglage-retrain-router",)
    assert found["database"].facts.endswith(
        "12 runs, 3 of them older than 90 days; set PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs for the "
        "server"
    )


def test_only_jobs_of_runs_that_ended_a_while_ago_are_stopped_and_only_while_none_goes_on(
    server: Server, clear: Callable[..., dict[str, Cleared]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, just_ended, going, unknown = (uuid4() for _ in range(4))
    now = datetime.now(UTC)
    server.runs = {
        ended: State(type=StateType.CRASHED, timestamp=now - timedelta(hours=1)),
        just_ended: State(type=StateType.CRASHED, timestamp=now),
        going: State(type=StateType.RUNNING, timestamp=now - timedelta(hours=1)),
    }
    by = {str(run): f"job-{name}" for run, name in zip(
        (ended, just_ended, going, unknown), ("ended", "just-ended", "going", "unknown"), strict=True
    )}  # fmt: skip
    stopped: list[str] = []

    class Cluster:
        def list_jobs(self) -> list[Any]:
            live, dead = SimpleNamespace(is_terminal=lambda: False), SimpleNamespace(is_terminal=lambda: True)
            ours = [(run, job, live) for run, job in by.items()]
            others = [("", "job-of-a-command-line", live), (str(ended), "job-that-is-over", dead)]
            made = [
                SimpleNamespace(submission_id=job, metadata={"started_by": run}, status=status)
                for run, job, status in (*ours, *others)
            ]
            return [*made, SimpleNamespace(submission_id="job-of-somebody", metadata=None, status=live)]

        def stop_job(self, job: str) -> None:
            stopped.append(job)

    monkeypatch.setattr(jobs, "job_client", lambda _: Cluster())
    what = "jobs of runs that ended"
    assert clear(ray_address="http://head:8265")[what].found == ("job-ended",)
    assert stopped == []
    server.going_on = [object()]
    assert clear(ray_address="http://head:8265", delete=True)[what].facts == "1 run going on: none is stopped now"
    assert stopped == []
    server.going_on = []
    clear(ray_address="http://head:8265", delete=True)
    assert stopped == ["job-ended"]


def test_every_flow_that_trains_may_wait_for_jobs() -> None:
    assert {name for name, standing in STANDING.items() if standing.trains} <= {*TRAINING}


@pytest.mark.parametrize(
    "given", [{"grace_days": -1}, {"keep_days": float("nan")}, {"grace_days": float("inf")}, {"keep_runs": 0}]
)
def test_days_that_are_none_are_refused_before_anything_is_done(
    server: Server, clear: Callable[..., dict[str, Cleared]], given: dict[str, float]
) -> None:
    with pytest.raises(RecipeError, match=r"allowed (are days from 0 on|is 1 or more)"):
        clear(**given, delete=True)
    assert server.limits["reglage-retrain-router"] == 1


def test_the_form_is_flat_explained_and_deletes_nothing_untouched() -> None:
    fields = parameter_schema(janitor).model_dump()["properties"]
    assert all(field["title"] and field["description"] and "default" in field for field in fields.values())
    assert fields["delete"]["default"] is False
