"""Runs that ask a person, on Prefect's test server: a newer one takes an older one's place, and one moves the alias."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Completed
from prefect.testing.utilities import prefect_test_harness

from flows.retraining.approval import one_at_a_time
from flows.retraining.challenge import Challenge, settle
from flows.retraining.fresh_data import Listing
from flows.retraining.waiting import ask, taken_over
from ftlib.recipe.file import load_recipe
from ftlib.registry import CHAMPION, ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.registry.versions import Manifest, file_of
from ftlib.retraining.decisions import Champion
from ftlib.storage import LocalStore
from ftlib.workspace import Workspace
from tasks.runner import Runner

pytestmark = [pytest.mark.prefect, pytest.mark.slow]

NAME = "tiny-router"
before_it_moves = taken_over


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@flow(name="retrain", persist_result=True)
def asks(recipe: str, work: str, version: int, override: str = "seed=0") -> State[Any]:
    """What `retrain` does from its question on; the training came before."""
    r, place = load_recipe(Path(recipe), [override]), Workspace(work)
    registry = ModelRegistry(r.publish.to.store())
    champion = registry.alias(NAME, CHAMPION)
    facts = champion and Champion(name=NAME, version=champion.version, sequence=champion.sequence, age_days=1)
    judged = Challenge(
        recipe=r,
        what="waiting",
        reasons=("it is better",),
        listing=Listing(seen={}),
        champion=facts,
        hold=registry.hold(NAME, CHAMPION),
        version=ModelVersion(
            name=NAME,
            version=version,
            registry=registry.store.uri,
            manifest="0" * 64,
            created=True,
            logit_difference=0.0,
        ),
    )
    with one_at_a_time(NAME, place):
        approval, shown_hold = ask(judged, place)
    with one_at_a_time(NAME, place):
        settled = before_it_moves(judged) or settle(r, Runner(place), judged, approval, shown_hold)
    return Completed(name=settled.title, data=settled)


class Site:
    """A model with four versions, of which the first is in place, and runs of a deployment that ask for the others."""

    def __init__(self, recipe: Path, folder: Path) -> None:
        text = recipe.read_text().replace(str(recipe.parent / "registry"), str(folder / "registry"))
        self.recipe, self.work = folder / "recipe.yaml", folder / "work"
        self.recipe.write_text(text + "retrain: {approval: by_hand}\n")
        self.registry = ModelRegistry(LocalStore(folder / "registry"))
        for n in (1, 2, 3, 4):
            (folder / "weights").write_text(str(n))
            files = (file_of(folder, "weights"),)
            manifest = Manifest(name=NAME, description="", files=files, metrics={}, lineage={})
            self.registry.publish(manifest, folder, str(n), lambda _: None, folder)
        self.registry.promote(NAME, CHAMPION, 1, None, "ann", "")
        with get_client(sync_client=True) as client:
            self.deployment = client.create_deployment(client.create_flow(asks), name=folder.name)

    def start(self, version: int, override: str = "seed=0") -> FlowRun:
        given = {"recipe": str(self.recipe), "work": str(self.work), "version": version, "override": override}
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(self.deployment, parameters=given)
        with pytest.raises(Pause):
            self.go_on(run)
        return run

    def go_on(self, run: FlowRun) -> Challenge:
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(run.id)
        return run_flow(asks, flow_run=run, parameters=run.parameters)

    def answer(self, run: FlowRun, decision: str = "promote") -> str:
        given = {"decision": decision, "who": "Ada", "why": "so"}
        with get_client(sync_client=True) as client:
            return client.resume_flow_run(run.id, run_input=given).status.value

    def state(self, run: FlowRun) -> tuple[str, str]:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run.id).state
        return state.type.value, state.name

    def page(self, run: FlowRun) -> str:
        only = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id]))
        with get_client(sync_client=True) as client:
            return str(client.read_artifacts(artifact_filter=only)[0].data)

    def versions(self) -> list[int]:
        return [entry.version for entry in self.registry.history(NAME, CHAMPION)]


@pytest.fixture
def site(tiny_recipe: Path, tmp_path: Path) -> Site:
    return Site(tiny_recipe, tmp_path)


def test_a_newer_retraining_takes_the_older_one_s_place_and_both_pages_say_so(site: Site):
    older = site.start(2)
    assert site.state(older) == ("PAUSED", "Suspended")
    newer = site.start(3)
    assert site.state(older) == ("COMPLETED", "Superseded")
    assert site.state(newer) == ("PAUSED", "Suspended")
    page = site.page(older)
    assert page.startswith(f"# {NAME}: superseded")
    assert str(newer.id) in page
    assert f"{NAME}@2 stays in the registry" in page
    assert "it is better" in page  # what it had found is not lost
    assert f"takes the place of [{older.name}]" in site.page(newer)
    assert str(older.id) in site.page(newer)
    assert site.answer(older) == "ABORT"
    assert site.answer(newer) == "ACCEPT"
    assert site.go_on(newer).what == "promoted"
    assert site.versions() == [1, 3]


def test_an_older_run_that_was_answered_first_goes_on_alone_and_the_newer_one_is_judged_again(site: Site):
    older = site.start(2)
    assert site.answer(older) == "ACCEPT"
    newer = site.start(3)  # before the worker has started the older one again
    assert site.state(older)[1] == "Resuming"
    assert site.state(newer)[1] == "Suspended"
    assert site.go_on(older).what == "promoted"
    assert site.state(newer)[1] == "Suspended"
    assert site.versions() == [1, 2]


def test_a_run_that_is_superseded_while_it_goes_on_again_moves_nothing(site: Site, monkeypatch: pytest.MonkeyPatch):
    """The newer one saw it wait, then came the answer, and only then did the newer one end it."""
    older = site.start(2)

    def late(judged: Challenge) -> Challenge | None:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(older.id, Completed(name="Superseded", message="Superseded: by another"))
        return taken_over(judged)

    monkeypatch.setitem(globals(), "before_it_moves", late)
    site.answer(older)
    assert site.go_on(older).what == "superseded"
    assert site.state(older) == ("COMPLETED", "Superseded")
    assert site.versions() == [1]


def test_others_that_wait_are_left_alone(site: Site, tmp_path: Path):
    older = site.start(2)
    canary = site.start(3, "retrain.alias=canary")
    elsewhere = site.start(3, f"publish.to.path={tmp_path / 'production'}")
    assert {site.state(run)[1] for run in (older, canary, elsewhere)} == {"Suspended"}


def test_a_newer_run_that_is_killed_before_it_asks_supersedes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch):
    older = site.start(2)

    def killed(**_: Any) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as now:
        now.setattr("flows.retraining.waiting.suspend_flow_run", killed)
        given = {"recipe": str(site.recipe), "work": str(site.work), "version": 3}
        with get_client(sync_client=True) as client:
            newer = client.create_flow_run_from_deployment(site.deployment, parameters=given)
        with pytest.raises(SystemExit):
            site.go_on(newer)
    assert site.state(older)[1] == "Suspended"
    with pytest.raises(Pause):  # run again, the same run
        site.go_on(newer)
    assert site.state(older)[1] == "Superseded"


def test_an_approval_does_not_go_past_a_rollback_it_was_not_told_of(site: Site):
    site.registry.promote(NAME, CHAMPION, 4, 1, "ann", "")
    asked = site.start(2)
    site.registry.rollback(NAME, CHAMPION, 2, "bob", "complaints")
    site.answer(asked)
    held = site.go_on(asked)
    assert (held.what, held.title) == ("held", "Held")
    reasons = "; ".join(held.reasons)
    assert "bob rolled tiny-router@champion back to version 1 at " in reasons
    assert "(complaints)" in reasons
    assert "Ada agreed before that" in reasons
    told = site.start(3)  # its page tells
    assert "**Held:** bob rolled" in site.page(told)
    site.answer(told)
    assert site.go_on(told).what == "promoted"
    assert site.versions() == [1, 4, 1, 3]
    assert site.registry.hold(NAME, CHAMPION) is None


def test_a_run_that_crashes_after_the_answer_asks_anew_and_can_be_answered(site: Site, monkeypatch: pytest.MonkeyPatch):
    run = site.start(2)
    assert site.answer(run) == "ACCEPT"

    def killed(_: Challenge) -> None:
        raise SystemExit(9)

    with monkeypatch.context() as now:
        now.setitem(globals(), "before_it_moves", killed)
        with pytest.raises(SystemExit):
            site.go_on(run)
    with get_client(sync_client=True) as client:
        assert site.state(run)[0] == "CRASHED"
        client.set_flow_run_state(run.id, State(type=StateType.SCHEDULED, name="RunsAgain"))
    with pytest.raises(Pause):
        site.go_on(run)
    assert site.answer(run) == "ACCEPT"
    assert site.go_on(run).what == "promoted"
    assert site.versions() == [1, 2]
