"""An environment's file: what it can say, and the line on which it says something that cannot be meant."""

import asyncio
import itertools
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml
from prefect.server.schemas.schedules import CronSchedule

from deployments.deployment import STANDING, check_parameters, flow_at, wanted
from deployments.environment import DeployedRecipe, Environment, Schedule, WorkPool, read_environment
from ftlib.costs.prices import read_prices
from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe

ROOT = Path(__file__).parents[2]
BROUGHT = sorted((ROOT / "deployments" / "environments").glob("*.yaml"))
VARIABLES = {
    "REGLAGE_HOME": "/srv/project",
    "REGLAGE_REGISTRY": "s3://models/prod",
    "REGLAGE_WORK": "s3://models/work",
    "REGLAGE_ROWS": "s3://models/rows/",
    "REGLAGE_IMAGE": "reglage@sha256:" + "0" * 64,
}


def refused(tmp_path: Path, text: str, **variables: str) -> list[str]:
    file = tmp_path / "env.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as error:
        read_environment(file, variables)
    return [line.replace(f"{file}:", "") for line in str(error.value).splitlines()]


@pytest.mark.parametrize("file", BROUGHT, ids=lambda file: file.stem)
def test_the_environments_that_are_brought_can_be_deployed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    environment = read_environment(file.stem, VARIABLES)
    assert environment.name == file.stem
    assert {one.flow for one in wanted(environment)} == {*STANDING}


def test_without_a_file_it_is_this_folders_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("REGLAGE_HOME", raising=False)
    assert read_environment(None, {}).home == str(tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\nhome: /srv\n")
    assert read_environment(None, {"REGLAGE_ENVIRONMENT": "mine.yaml"}).name == "mine"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("limts: {gpu: 1}", "3: limts: unknown field; did you mean 'limits'?"),
        ("pool: {nme: x}", "3: pool.nme: unknown field; did you mean 'name'?"),
        ("pool: {type: docker}", "3: pool: image: required for a pool of type docker"),
        ("pool: {type: docker, image: a/b}", "is not pinned (no tag)"),
        ("pool: {type: docker, image: 'a:5000/b'}", "is not pinned (no tag)"),
        ("pool: {type: kubernetes, image: 'a/b:latest'}", "is not pinned (latest)"),
        ("pool: {type: kubernetes, image: 'a/b:1@sha256:12'}", "is not pinned (no digest)"),
        ("pool: {image: 'a/b:1'}", "starts no container"),
        ("pool: {job_variables: {env: {AWS_SECRET_ACCESS_KEY: abc}}}", "name it in `secrets`"),
        ("pool: {job_template: absent.json}", "absent.json is no base job template"),
        ("pool: {job_template: dev.yaml}", "dev.yaml is no base job template"),
        (
            "pool: {type: kubernetes, image: 'a:1', job_template: kubernetes-job.json, job_variables: {gpu: 1}}",
            "job_variables: gpu: kubernetes-job.json has no such variable; it has annotations",
        ),
        ("recipes: [{recipe: a.yaml, schedules: [{cron: 0 3 * * *}]}]", "timezone: required, but absent"),
        ("recipes: [{recipe: a.yaml, schedules: [{cron: 0 3 * * *, timezone: Mars/Base}]}]", "'Mars/Base' is no time"),
        ("recipes: [{recipe: a.yaml, schedules: [{cron: 0 3 * * *, timezone: ''}]}]", "'' is no time zone"),
        ("recipes: [{recipe: a.yaml, schedules: [{cron: 61 * * * *, timezone: UTC}]}]", "out of range"),
        ("recipes: [{recipe: a.yaml, schedules: [{cron: 0 0 30 2 *, timezone: UTC}]}]", "that comes round"),
        ("recipes: [{recipe: a.yaml, schedules: [{cron: 0 3 * * * *, timezone: UTC}]}]", "write minute, hour"),
        ("recipes: [{recipe: a.yaml, schedules: [{cron: R 3 * * *, timezone: UTC}]}]", "random and hashed"),
        ("limits: {gpu: 0}", "3: limits.gpu: input should be greater than or equal to 1, got 0"),
        ("registry: s3://key:secret@bucket/models", "3: registry: this place is a URL with a user's name"),
        ("endpoint_url: https://key:secret@host", "endpoint_url: a URL with a user's name or password"),
        ("registry: ftp://x/y", "is no storage this can open"),
        ("work: ${NOT_SET}", "3: the variable NOT_SET is not set"),
        ("work: ${EMPTY}", "3: the variable EMPTY is not set"),
        ("work: $HOME/x", "3: '$' names no variable"),
        ("work: ${HOME", "3: '${HOME' names no variable"),
        ("work: ${RAY_AUTH_TOKEN}", "is a secret by its name"),
        ("secrets: {blocks: {KEY: Not A Name}}", "name of a Secret block"),
        ("secrets: {variables: [NOT-A-NAME]}", "secrets.variables[0]"),
        ("notifications: [{block: alerts, events: [failed]}]", "notifications[0].block"),
        ("notifications: [{block: a/b, events: [success]}]", "notifications[0].events"),
        ("home: relative", "is given twice"),
    ],
)
def test_what_cannot_be_meant_is_a_line_with_its_place(tmp_path: Path, line: str, said: str) -> None:
    (told,) = refused(tmp_path, f"name: dev\nhome: /srv\n{line}\n", EMPTY="")
    assert said in told


def test_every_problem_has_its_own_line(tmp_path: Path) -> None:
    told = refused(tmp_path, "name: dev\nhome: here\nlimits:\n  gpu: none\n  cpu: 1\nregistri: x\n")
    assert [line.split(":")[0] for line in told] == ["2", "4", "6"]


@pytest.mark.parametrize("text", ["", "- a", "a: [", "name: [dev]"])
def test_what_is_no_environment_is_refused(tmp_path: Path, text: str) -> None:
    assert refused(tmp_path, text)
    with pytest.raises(RecipeError, match="cannot be read"):
        read_environment(tmp_path / "missing.yaml")


def test_a_variable_is_a_text_and_no_yaml(tmp_path: Path) -> None:
    file = tmp_path / "env.yaml"
    file.write_text("name: dev\nhome: ${PLACE}\nwork: a$$b\n")
    read = read_environment(file, {"PLACE": "/srv/a: {b}"})
    assert (read.home, read.work) == ("/srv/a: {b}", "a$b")


def test_pinned_images_are_taken() -> None:
    for image in ("a/b:0.2.0", "host:5000/a/b:1", "a@sha256:" + "a" * 64, "a:1@sha256:" + "f" * 64):
        assert WorkPool(type="docker", image=image).image == image


FRESH = "recipes/fresh_data.yaml"


def one_recipe(**settings: object) -> Environment:
    return Environment(home="/srv/project", recipes=(DeployedRecipe.model_validate({"recipe": FRESH, **settings}),))


def test_a_recipes_deployment_is_named_for_its_model_and_found_from_any_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    model = load_recipe(FRESH).publish.name
    *_, made = wanted(one_recipe(approval="by_hand", event=True))
    assert made.full_name == f"retrain/{model}"
    assert made.parameters["recipe"] == "/srv/project/recipes/fresh_data.yaml"
    assert made.parameters["work"] == "/srv/project/work"
    assert load_recipe(FRESH, made.parameters["overrides"]).retrain.approval == "by_hand"
    assert made.datasets[0] == model
    assert {"reglage", "reglage:dev", model} <= {*made.tags}


def test_what_starts_on_an_event_is_watched_as_its_retraining_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    environment = one_recipe(event=True, overrides=["publish.name=other"])
    by_flow = {one.full_name: one for one in wanted(environment)}
    assert by_flow["retrain/other"].datasets == ("other",)
    (text,) = by_flow["watch/watch"].parameters["recipes"]
    assert text == "/srv/project/recipes/fresh_data.yaml --set publish.name=other"


def test_a_recipe_with_looks_of_its_own_has_them_beside_it_and_is_watched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    hourly = [{"cron": "7 * * * *", "timezone": "UTC"}]
    overrides = ["monitor.log={place: log/}"]
    environment = one_recipe(event=True, watch=hourly, monitor=hourly, overrides=overrides, paused=True)
    made = {one.full_name: one for one in wanted(environment)}
    looks = [one for one in made.values() if one.name == "ticket-router-fresh" and one.flow != "retrain"]
    assert [(one.flow, str(one.schedules[0]), one.paused) for one in looks] == [
        ("watch", "7 * * * * UTC", True),
        ("monitor", "7 * * * * UTC", True),
    ]
    assert looks[0].parameters["recipes"] == [f"/srv/project/{FRESH} --set {overrides[0]}"]
    assert (made["watch/watch"].parameters["recipes"], made["watch/watch"].schedules) == ([], ())


def test_the_registry_of_the_environment_is_the_recipes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    azure = "abfs://rows@account.dfs.core.windows.net/p"
    kinds = {"s3://bucket/a prefix": "s3", "/srv/reg: 'x'": "folder", "gs://bucket/p": "gcs", azure: "azure"}
    for registry, kind in kinds.items():
        environment = one_recipe().model_copy(update={"registry": registry, "endpoint_url": "http://s3:9000"})
        by_flow = {one.full_name: one for one in wanted(environment)}
        assert by_flow["rollback/rollback"].parameters["registry"] == registry
        *_, made = by_flow.values()
        to = load_recipe(FRESH, made.parameters["overrides"]).publish.to
        assert to.kind == kind
        assert to.place().uri == registry


def test_an_untouched_form_asks_for_a_recipe_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "recipes").mkdir()
    for name in ("mine.yaml", "other.yaml"):
        (tmp_path / "recipes" / name).touch()
    monkeypatch.chdir(tmp_path)  # a wheel's: no checkout with its recipes
    recipe = DeployedRecipe(recipe=str(ROOT / FRESH))
    for named in ((), (recipe,)):
        made = {one.full_name: one for one in wanted(Environment(home=str(tmp_path), recipes=named))}
        offered = ["recipes/mine.yaml", "recipes/other.yaml"]
        offered = [*(one.recipe for one in named), *offered]
        for flow in ("finetune/finetune", "retrain/retrain", "evaluate/evaluate"):
            field = made[flow].form["properties"]["recipe"]
            assert field["anyOf"][0]["enum"] == offered
            assert made[flow].parameters["recipe"] == field["default"] == offered[0]
    (own,) = (one for one in made.values() if one.name == "ticket-router-fresh")
    assert own.form["properties"]["recipe"]["anyOf"][0]["enum"][0] == own.parameters["recipe"]

    (tmp_path / "recipes" / "quickstart.yaml").touch()
    finetune = next(iter(wanted(Environment(home=str(tmp_path)))))
    assert "recipe" not in finetune.parameters
    assert finetune.form["properties"]["recipe"]["default"] == "recipes/quickstart.yaml"


def test_two_recipes_of_one_model_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    twice = Environment(home="/srv", recipes=(DeployedRecipe(recipe=FRESH), DeployedRecipe(recipe=FRESH)))
    with pytest.raises(RecipeError, match="would both be retrain/"):
        wanted(twice)
    with pytest.raises(RecipeError, match="always there"):
        wanted(Environment(home="/srv", recipes=(DeployedRecipe(recipe=FRESH, overrides=("publish.name=promote",)),)))


def test_secrets_are_blocks_and_a_projects_own_flows_are_not_ours() -> None:
    environment = Environment.model_validate(
        {"secrets": {"blocks": {"AWS_SECRET_ACCESS_KEY": "s3-secret"}}, "pool": {"job_variables": {"env": {"A": "1"}}}}
    )
    for one in wanted(environment):
        assert one.job_variables["env"] == {
            "PYTHONSAFEPATH": "1",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
            "A": "1",
            "AWS_SECRET_ACCESS_KEY": "{{ prefect.blocks.secret.s3-secret }}",
        }


@pytest.mark.parametrize(
    ("parameters", "said"), [({"recipi": "x"}, "no such parameter"), ({"training": {"epochs": -1}}, "do not fit")]
)
def test_parameters_that_a_flow_does_not_take_are_refused(parameters: dict[str, object], said: str) -> None:
    finetune, *_ = wanted(Environment())
    check_parameters(finetune)
    with pytest.raises(RecipeError, match=said):
        check_parameters(finetune.model_copy(update={"parameters": parameters}))


def test_deployments_point_at_their_flows() -> None:
    for one in wanted(Environment()):
        assert flow_at(one.entrypoint).name == one.flow
        assert one.one_at_a_time == (one.flow in {"finetune", "retrain", "search"})


def test_the_files_hold_no_secret() -> None:
    for file in BROUGHT:
        secrets = (yaml.safe_load(file.read_text()).get("secrets") or {}).get("blocks", {})
        assert all(block.startswith("reglage-") for block in secrets.values())


def test_a_schedule_without_a_switch_leaves_it_to_the_server() -> None:
    assert Schedule(cron="@daily", timezone="UTC").active is None


@pytest.mark.parametrize("zone", ["Europe/Paris", "America/New_York", "Australia/Lord_Howe"])
def test_a_schedule_follows_its_zones_clock_through_daylight_saving_time(zone: str) -> None:
    """Against Prefect's own scheduler, over the months in which the zone changes its clocks."""
    for cron, start in itertools.product(("0 3 * * *", "15 */6 * * *"), SUMMERS_ENDS):
        theirs = asyncio.run(CronSchedule(cron=cron, timezone=zone).get_dates(n=80, start=start))
        schedule, ours, now = Schedule(cron=cron, timezone=zone), [], start
        for _ in theirs:
            now = schedule.next_time(now)
            ours.append(now.astimezone(UTC))
        assert ours == [due.astimezone(UTC) for due in theirs]
        if cron == "0 3 * * *":
            assert {due.astimezone(ZoneInfo(zone)).hour for due in ours} == {3}
            assert len({due.time() for due in ours}) == 2  # the clocks did change


SUMMERS_ENDS = (datetime(2031, 3, 1, tzinfo=UTC), datetime(2031, 9, 15, tzinfo=UTC))


def test_prices_reach_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "env.yaml"
    file.write_text("home: /srv\nprices: {currency: EUR, cpu_core_hour: 0.04, gpu_hour: {H100: 2.5}}\n")
    environment = read_environment(file, {})
    for deployment in wanted(environment):
        monkeypatch.setenv("REGLAGE_PRICES", deployment.job_variables["env"]["REGLAGE_PRICES"])
        assert read_prices() == environment.prices
    assert refused(tmp_path, "home: /srv\nprices: {currency: EUR, cpu_hour: 1}")[0].startswith("2: prices.cpu_hour: ")
