"""Plan, apply, plan again, on Prefect's test server: what was planned is what was done, and nothing else is touched."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prefect import get_client
from prefect.client.schemas.actions import DeploymentUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.events.schemas.automations import AutomationCore
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from deployments.apply import apply
from deployments.changes import Change, changes, owned_automations, pool_step
from deployments.environment import DeployedRecipe, Environment, Schedule, WorkPool
from deployments.recipe_deployment import Wishes, deploy_recipe, deployed_recipes, remove_recipe
from deployments.server import NO_SERVER, connected
from flows.command_line.main import main
from ftlib.errors import ConflictError, RecipeError, StorageError

ROOT = Path(__file__).parents[2]
NIGHTLY = DeployedRecipe(
    recipe="recipes/fresh_data.yaml",
    event=True,
    schedules=(Schedule(cron="0 3 * * *", timezone="Europe/Paris"),),
)
ENVIRONMENT = Environment(home="/srv/project", recipes=(NIGHTLY,), limits={"gpu": 1})
NAME = "retrain/ticket-router-fresh"


@pytest.fixture(scope="module")
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(ROOT)
    if "server" in request.fixturenames:
        monkeypatch.setenv("PREFECT_API_URL", PREFECT_API_URL.value())


def what(done: list[Change]) -> set[str]:
    return {change.what for change in done}


def of(done: list[Change], name: str) -> Change:
    (found,) = (change for change in done if change.name == name)
    return found


def with_recipe(**settings: Any) -> Environment:
    return ENVIRONMENT.model_copy(update={"recipes": (NIGHTLY.model_copy(update=settings),)})


def test_without_a_server_one_line_says_how_to_start_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as error, connected():
        pass
    assert str(error.value) == NO_SERVER
    assert "reglage up" in NO_SERVER


@pytest.mark.prefect
def test_plan_says_what_apply_does_and_the_second_apply_nothing(server: None) -> None:
    planned = changes(ENVIRONMENT)
    assert what(planned) == {"created"}
    assert apply(ENVIRONMENT) == planned
    assert what(apply(ENVIRONMENT)) == {"unchanged"}
    assert [one.deployment for one in deployed_recipes()] == [NAME]  # finetune's form begins with a recipe, too

    later = (Schedule(cron="0 4 * * *", timezone="Europe/Paris"),)
    changed = of(changes(with_recipe(schedules=later, approval="by_hand", event=False)), NAME)
    assert changed.what == "updated"
    assert {str(field) for field in changed.fields} >= {
        "schedules.schedule-1.cron: 0 3 * * * > 0 4 * * *",
        'parameters.overrides: none > ["retrain.approval=by_hand"]',
    }
    assert any(field.path.startswith("triggers.") and field.new is None for field in changed.fields)


@pytest.mark.prefect
def test_the_server_inserts_the_runs_of_a_schedule_by_its_zones_clock(server: None) -> None:
    """With SQLAlchemy 2.1 the scheduler of Prefect 3.8.8 cannot: it answers 503, and no schedule ever runs."""
    apply(ENVIRONMENT)
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name(NAME)
        client.request("POST", "/deployments/{id}/schedule", path_params={"id": there.id}, json={"min_runs": 2})
        runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[there.id])))
        due = [run.expected_start_time for run in runs if run.expected_start_time]
    assert len(due) >= 2
    assert {time.astimezone(ZoneInfo("Europe/Paris")).hour for time in due} == {3}


@pytest.mark.slow
@pytest.mark.prefect
def test_what_a_person_switched_stays_and_what_they_changed_is_told(server: None) -> None:
    apply(ENVIRONMENT)
    with get_client(sync_client=True) as client:
        there = client.read_deployment_by_name(NAME)
        client.update_deployment_schedule(there.id, there.schedules[0].id, active=False)
        assert what(changes(ENVIRONMENT)) == {"unchanged"}
        client.update_deployment(there.id, DeploymentUpdate(description="by hand"))
        assert next(map(str, of(changes(ENVIRONMENT), NAME).fields)).startswith("description: by hand >")
        apply(ENVIRONMENT)
        assert not client.read_deployment_by_name(NAME).schedules[0].active
        (trigger,) = owned_automations(client, there.id)
        mine = trigger.model_dump(exclude={"id"}) | {"name": "a person's own"}
        client.create_automation(AutomationCore.model_validate(mine))
        assert of(changes(ENVIRONMENT), NAME).what == "unchanged"
        client.create_automation(AutomationCore.model_validate(trigger.model_dump(exclude={"id"})))
        assert of(changes(ENVIRONMENT), NAME).what == "updated"  # a twin, of two that were applied at once
        on = (NIGHTLY.schedules[0].model_copy(update={"active": True}),)
        apply(with_recipe(schedules=on, paused=True))
        again = client.read_deployment_by_name(NAME)
        assert again.schedules[0].active
        assert again.paused
        (trigger,) = owned_automations(client, again.id)
        assert not trigger.enabled
    assert what(changes(with_recipe(paused=None))) == {"unchanged"}
    apply(with_recipe(paused=False))


@pytest.mark.slow
@pytest.mark.prefect
def test_only_what_the_environment_owns_is_deleted(server: None) -> None:
    apply(ENVIRONMENT)
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("retrain")
        client.create_deployment(flow_id=flow, name="somebodys", tags=["reglage"], entrypoint="x.y")
        client.create_deployment(flow_id=flow, name="other", tags=["reglage:other"], entrypoint="x.y")
        bare = ENVIRONMENT.model_copy(update={"recipes": ()})
        assert [change.name for change in changes(bare) if change.what == "deleted"] == [NAME]
        apply(bare)
        names = {deployment.name for deployment in client.read_deployments()}
        assert {"somebodys", "other"} <= names
        assert NAME.partition("/")[2] not in names
        assert not [one for one in client.read_automations() if NAME in one.name]


@pytest.mark.slow
@pytest.mark.prefect
def test_what_others_own_is_not_taken(server: None) -> None:
    apply(ENVIRONMENT)
    other = ENVIRONMENT.model_copy(update={"name": "staging"})
    with pytest.raises(ConflictError, match=r"belongs to the environment 'dev'.*suffix"):
        changes(other)
    apart = other.model_copy(update={"suffix": "-staging", "pool": WorkPool(name="staging")})
    assert {change.what for change in changes(apart) if change.kind == "deployment"} == {"created"}
    with get_client(sync_client=True) as client:
        client.delete_deployment(client.read_deployment_by_name(NAME).id)
        client.create_deployment(flow_id=client.create_flow_from_name("retrain"), name=NAME[8:], entrypoint="a.b")
        with pytest.raises(ConflictError, match=r"not Réglage's \(a\.b\)"):
            apply(ENVIRONMENT)
        client.delete_deployment(client.read_deployment_by_name(NAME).id)
    docker = ENVIRONMENT.model_copy(update={"pool": WorkPool(type="docker", image="a:1")})
    with pytest.raises(ConflictError, match="of type process on the server"):
        changes(docker)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "tickets.yaml"
    text = (ROOT / "recipes" / "fresh_data.yaml").read_text()
    path.write_text(text.replace("name: ticket-router-fresh", "name: tickets"))
    monkeypatch.chdir(tmp_path)
    return path.name


@pytest.mark.prefect
def test_a_recipe_is_deployed_in_one_call_and_again_keeps_what_is_not_said(server: None, recipe: str) -> None:
    here = Environment(home=str(Path.cwd()))
    nightly = (Schedule(cron="0 3 * * *", timezone="Europe/Paris"),)
    made, (change,), has_worker = deploy_recipe(recipe, Wishes(nightly, event=True, approval="by_hand"), here)
    assert (change.what, change.name, has_worker) == ("created", "retrain/tickets", False)
    assert made.recipe == str(Path.cwd() / recipe)
    assert [str(schedule) for schedule in made.schedules] == ["0 3 * * * Europe/Paris"]
    assert (made.model, made.event, made.approval, made.paused) == ("tickets", True, "by_hand", False)

    assert what(deploy_recipe(recipe, Wishes(), here)[1]) == {"unchanged"}
    paused, (change,), _ = deploy_recipe(recipe, Wishes(paused=True), here)
    assert "paused: false > true" in {str(field) for field in change.fields}
    assert paused.schedules == made.schedules
    bare, _, _ = deploy_recipe(recipe, Wishes((), event=False, approval="recipe", paused=False), here)
    assert (bare.schedules, bare.event, bare.approval) == ((), False, "")
    assert [one.deployment for one in deployed_recipes() if not one.owner] == ["retrain/tickets"]

    elsewhere = here.model_copy(update={"pool": WorkPool(name="gpu")})
    for other in (elsewhere, here.model_copy(update={"name": "production"})):
        with pytest.raises(ConflictError, match=r"deployed to another environment.*--env"):
            deploy_recipe(recipe, Wishes(), other)
    moved, _, _ = deploy_recipe(recipe, Wishes(moves=True), elsewhere)
    assert moved.pool == "gpu"
    deploy_recipe(recipe, Wishes(moves=True), here)

    Path("link.yaml").symlink_to(recipe)
    assert what(deploy_recipe("link.yaml", Wishes(), here)[1]) == {"updated"}  # one recipe, by another name
    Path("twin.yaml").write_text(Path(recipe).read_text())
    with pytest.raises(ConflictError, match=r"two recipes of one model.*--remove tickets"):
        deploy_recipe("twin.yaml", Wishes(), here)
    Path(recipe).unlink()
    assert what(remove_recipe("tickets", here)) == {"deleted"}
    with pytest.raises(RecipeError, match="not deployed"):
        remove_recipe("tickets", here)
    assert all(one.owner for one in deployed_recipes())  # what an environment's file has is listed, too


@pytest.mark.prefect
def test_looks_stand_beside_it_and_go_with_it(server: None, recipe: str) -> None:
    here = Environment(home=str(Path.cwd()))
    hourly = (Schedule(cron="7 * * * *", timezone="UTC"),)
    with pytest.raises(RecipeError, match="nothing would start when files come"):
        deploy_recipe(recipe, Wishes(watch=hourly), here)
    with pytest.raises(RecipeError, match=r"monitor\.log: got none.*reglage serve --log"):
        deploy_recipe(recipe, Wishes(monitor=hourly), here)
    Path(recipe).write_text(Path(recipe).read_text() + "monitor: {log: {place: log/}}\n")
    wishes = Wishes(event=True, approval="by_hand", watch=hourly, monitor=hourly)
    made, done, _ = deploy_recipe(recipe, wishes, here)
    names = ["retrain/tickets", "watch/tickets", "monitor/tickets"]
    assert [(change.name, change.what) for change in done] == [(name, "created") for name in names]
    assert [*map(str, (*made.watch, *made.monitor))] == ["7 * * * * UTC"] * 2
    with get_client(sync_client=True) as client:
        watch, monitor = (client.read_deployment_by_name(name).parameters for name in names[1:])
    whole = str(Path.cwd() / recipe)
    assert watch == {"recipes": [f"{whole} --set retrain.approval=by_hand"], "work": str(Path.cwd() / "work")}
    assert (monitor["recipe"], monitor["work"]) == (whole, watch["work"])
    assert [one.deployment for one in deployed_recipes() if not one.owner] == names[:1]

    assert what(deploy_recipe(recipe, Wishes(), here)[1]) == {"unchanged"}
    paused = deploy_recipe(recipe, Wishes(paused=True), here)[1]
    assert [[str(field) for field in change.fields][:1] for change in paused[1:]] == [["paused: false > true"]] * 2
    later = deploy_recipe(recipe, Wishes(monitor=(), paused=False), here)[1]
    assert (later[-1].name, later[-1].what) == ("monitor/tickets", "deleted")
    assert [change.name for change in remove_recipe(recipe, here)] == names[:2]
    with get_client(sync_client=True) as client:
        assert "tickets" not in {one.name for one in client.read_deployments()}


@pytest.mark.prefect
def test_a_deployment_of_that_name_that_is_somebody_s_is_one_line(server: None, recipe: str) -> None:
    with get_client(sync_client=True) as client:
        theirs = client.create_deployment(client.create_flow_from_name("retrain"), name="tickets", entrypoint="a.b")
        with pytest.raises(ConflictError, match=r"not Réglage's \(a\.b\)"):
            deploy_recipe(recipe, Wishes(), Environment(home=str(Path.cwd()), pool=WorkPool(name="unused")))
        assert "unused" not in {pool.name for pool in client.read_work_pools()}
        client.delete_deployment(theirs)


@pytest.mark.slow
@pytest.mark.prefect
def test_a_file_and_the_command_leave_each_others_deployments_alone(server: None, recipe: str) -> None:
    here = Environment(home=str(Path.cwd()))
    deploy_recipe(recipe, Wishes(), here)
    assert what(changes(here)) <= {"created", "updated", "unchanged", "deleted"}
    assert "retrain/tickets" not in {change.name for change in changes(here)}
    theirs = here.model_copy(update={"recipes": (DeployedRecipe(recipe=recipe),)})
    with pytest.raises(ConflictError, match="belongs to `reglage deploy`"):
        apply(theirs)
    remove_recipe(recipe, here)
    apply(theirs)
    with pytest.raises(ConflictError, match="belongs to the environment 'dev'"):
        remove_recipe(recipe, here)
    with pytest.raises(ConflictError, match="belongs to the environment 'dev'"):
        deploy_recipe(recipe, Wishes(), here)
    apply(here)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cron", "0 3 * * *"], "--cron needs --timezone"),
        (["--timezone", "UTC"], "--timezone says whose clock"),
        (["--monitor", "7 * * * *"], "--monitor needs --timezone"),
        (["--monitor", "7 * * *", "--timezone", "UTC"], "--monitor: '7 * * *' is no cron expression"),
        (["--watch", "7 * * * *", "--no-watch", "--timezone", "UTC"], "--watch and --no-watch: give one of them"),
        (["--cron", "0 3 * *", "--timezone", "UTC"], "--cron: '0 3 * *' is no cron expression"),
        (["--cron", "0 3 * * *", "--timezone", "Mars"], "--timezone: 'Mars' is no time zone"),
        (["--cron", "0 3 * * *", "--timezone", "UTC", "--no-cron"], "give one of them"),
        ([], "reglage up"),
    ],
)
def test_what_cannot_be_deployed_is_one_line(
    recipe: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(Path.cwd()))
    with pytest.raises(SystemExit):
        main(["deploy", recipe, *words])
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert said in line


@pytest.mark.prefect
def test_a_pools_job_template_is_made_and_kept_as_the_file_says(server: None, tmp_path: Path) -> None:
    pool = WorkPool(name="pods", type="kubernetes", image="reglage:0.2.0", job_template="kubernetes-job.json")
    with connected() as client:
        assert pool_step(client, pool).change.what == "created"
        pool_step(client, pool).make()
        assert pool_step(client, pool).change.what == "unchanged"
        assert client.read_work_pool("pods").base_job_template == pool.template()

        own = tmp_path / "own.json"
        own.write_text(json.dumps(pool.template()).replace('"default": "4"', '"default": "8"'))
        changed = pool_step(client, pool.model_copy(update={"job_template": str(own)}))
        (field,) = changed.change.fields
        assert str(field) == "job_template.variables.properties.cpu.default: 4 > 8"
        changed.make()
        assert pool_step(client, pool).change.what == "updated"
        left = WorkPool(name="pods", type="kubernetes", image="reglage:0.2.0")
        assert pool_step(client, left).change.what == "unchanged"  # a template that nobody names stays as it is
