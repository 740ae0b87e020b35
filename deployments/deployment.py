"""What a deployment on the server ought to be, as a value: made from an environment, compared and written elsewhere."""

import os
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

from prefect.flows import Flow
from pydantic import Field

import ftlib
from deployments.environment import DeployedRecipe, Environment, Schedule
from deployments.heartbeat import HEARTBEAT, heartbeat
from flows.pages.form_schema import form_schema
from flows.watch import with_overrides
from ftlib.config import Config
from ftlib.costs.prices import VARIABLE as PRICES
from ftlib.errors import RecipeError
from ftlib.published.lineage import code_facts
from ftlib.recipe.file import load_recipe
from ftlib.registry.places import registry_at
from ftlib.storage.place import Place, is_remote
from ftlib.urls import NO_SECRET_PATTERN

TAG = "reglage"
"""On every deployment that is Réglage's."""
BY_HAND = "reglage deploy"
"""The tag of a deployment that `reglage deploy` made: it belongs to no environment's file."""


class Standing(NamedTuple):
    """A flow that every environment deploys under its own name."""

    entrypoint: str
    """A module path: what Ray unpickles must be importable on its workers."""
    tag: str
    trains: bool = False
    """Whether its runs queue, one at a time; a queued run is never dropped."""
    cron: str = ""
    """When it runs by itself, in UTC; empty: never."""


STANDING = {
    "finetune": Standing("flows.finetune.finetune", "finetune", trains=True),
    "retrain": Standing("flows.retrain.retrain", "retrain", trains=True),
    "search": Standing("flows.search.search", "search", trains=True),
    "evaluate": Standing("flows.evaluate.evaluate", "evaluate"),
    "interpolate": Standing("flows.interpolate.interpolate", "interpolate"),
    "promote": Standing("flows.promote.promote", "registry"),
    "rollback": Standing("flows.promote.rollback", "registry"),
    "watch": Standing("flows.watch.watch", "watch", cron="*/15 * * * *"),
    "monitor": Standing("flows.monitor.monitor", "monitor"),
    "janitor": Standing("flows.janitor.janitor", "janitor", cron="17 4 * * *"),
}


class Deployment(Config):
    """A deployment as it ought to be."""

    flow: str
    """The flow's name."""
    name: str
    """Its own name, behind the flow's."""
    entrypoint: str
    """The module path of the flow."""
    description: str
    """What its page says."""
    version: str
    """Réglage's version and commit."""
    tags: tuple[str, ...]
    """What it is found by; one of them says who owns it."""
    parameters: dict[str, Any]
    """What its form begins with."""
    pool: str
    """The work pool."""
    home: str
    """The folder that a run starts in."""
    job_variables: dict[str, Any]
    """What the pool's job template takes."""
    one_at_a_time: bool = False
    """Whether its runs queue one behind the other."""
    schedules: tuple[Schedule, ...] = ()
    """When it runs by itself."""
    datasets: tuple[str, ...] = ()
    """Names behind `reglage.dataset.` whose change starts it."""
    paused: bool | None = None
    """Whether neither schedules nor events start it; null: as it is on the server."""
    form: dict[str, Any] = Field(default_factory=dict)
    """The JSON schema of its parameters."""

    @property
    def full_name(self) -> str:
        """Return flow/name, as Prefect's commands take it."""
        return f"{self.flow}/{self.name}"

    @property
    def owner(self) -> str:
        """Return the tag that says who owns it."""
        return next(tag for tag in self.tags if is_owner(tag))


def is_owner(tag: str) -> bool:
    """Say whether a tag says who owns a deployment."""
    return tag == BY_HAND or tag.startswith(f"{TAG}:")


def wanted(environment: Environment) -> list[Deployment]:
    """Return every deployment of an environment. Raises RecipeError for a recipe that cannot be deployed."""
    standing = [_standing(flow, environment) for flow in STANDING]
    made, by_name = [*standing], {deployment.full_name: "" for deployment in standing}
    for one in environment.recipes:
        deployment = recipe_deployment(one, environment, environment.tag)
        if deployment.full_name in by_name:
            raise RecipeError(
                f"{one.recipe}: {by_name[deployment.full_name] or 'a deployment that is always there'} and it would "
                f"both be {deployment.full_name}; publish under another name, or leave one out"
            )
        by_name[deployment.full_name] = one.recipe
        made += [deployment, *beside(one, environment, deployment)]
    for deployment in made:
        check_parameters(deployment)
    return made


def _standing(flow: str, environment: Environment) -> Deployment:
    """Return the deployment of a flow that is always there."""
    entrypoint, tag, trains, cron = STANDING[flow]
    accepted = flow_at(entrypoint).parameters.properties
    given = {"work": environment.work, "registry": environment.registry, "endpoint_url": environment.endpoint_url}
    parameters: dict[str, Any] = {name: value for name, value in given.items() if value and name in accepted}
    if "recipe" in accepted:
        there = offered(environment)
        if there and accepted["recipe"].get("default") not in there:
            parameters["recipe"] = there[0]  # what an untouched form asks for is there
    if (trains or flow == "monitor") and (overrides := _registry_overrides(environment)):
        parameters["overrides"] = overrides
    if flow == "watch":
        started = [one for one in environment.recipes if one.event and not one.watch]
        parameters["recipes"] = [with_overrides(below(environment.home, one.recipe), one.overrides) for one in started]
        cron = cron if started else ""
    if flow == "janitor":
        parameters |= {"registries": [environment.registry or "registry"], "delete": environment.janitor_deletes}
    made = _deployment(flow, f"{flow}{environment.suffix}", environment, environment.tag, tag, parameters, trains)
    return made.model_copy(update={"schedules": (Schedule(cron=cron, timezone="UTC"),) if cron else ()})


def recipe_deployment(one: DeployedRecipe, environment: Environment, owner: str) -> Deployment:
    """Return the deployment that keeps a recipe's model fresh, named for the model.

    The recipe is read from the current folder; a run finds it, and its work folder, below the environment's home.
    Raises RecipeError for a recipe that does not fit together with what the environment says.
    """
    overrides = [*_registry_overrides(environment), *one.overrides]
    if one.approval:
        overrides.append(f"retrain.approval={one.approval}")
    recipe = load_recipe(one.recipe, overrides)
    model = recipe.publish.name
    if model in STANDING:
        raise RecipeError(
            f"{one.recipe}: publish.name: {model!r} names a deployment that is always there; choose another"
        )
    parameters: dict[str, Any] = {
        "recipe": below(environment.home, one.recipe),
        "work": below(environment.home, one.work or environment.work),
    }
    if overrides:
        parameters["overrides"] = overrides
    made = _deployment("retrain", f"{model}{environment.suffix}", environment, owner, model, parameters, trains=True)
    return made.model_copy(
        update={
            "description": f"Keep {model} fresh, as {Path(one.recipe).name} says. {made.description}",
            "schedules": one.schedules,
            "datasets": (model,) if one.event else (),
            "paused": one.paused,
        }
    )


def beside(one: DeployedRecipe, environment: Environment, of: Deployment) -> list[Deployment]:
    """Return the deployments that look at a recipe's files and live answers, beside its retraining `of`.

    Raises RecipeError for a look that leads to nothing.
    """
    overrides: Sequence[str] = of.parameters.get("overrides", ())
    recipe = load_recipe(one.recipe, overrides)
    model = recipe.publish.name
    if one.watch and not one.event:
        raise RecipeError(f"{one.recipe}: watch: got no event, so nothing would start when files come; give both")
    if one.monitor and recipe.monitor.log is None:
        raise RecipeError(
            f"{one.recipe}: monitor.log: got none, needed is the log that is looked at; write monitor: {{log: {{place: "
            "PLACE}} in the recipe, with the PLACE of `reglage serve --log PLACE`"
        )
    files = {"recipes": [with_overrides(of.parameters["recipe"], overrides)], "work": of.parameters["work"]}
    looks: tuple[tuple[str, tuple[Schedule, ...], dict[str, Any], str], ...] = (
        ("watch", one.watch, files, f"Look where the rows of {model} come from."),
        ("monitor", one.monitor, of.parameters, f"Look at what {model} answers live."),
    )
    made: list[Deployment] = []
    for flow, schedules, parameters, said in looks:
        look = _deployment(flow, of.name, environment, of.owner, flow, parameters, trains=False)
        update = {"description": f"{said} {look.description}", "schedules": schedules, "paused": one.paused}
        made += [look.model_copy(update=update)] if schedules else []
    return made


def _deployment(
    flow: str, name: str, environment: Environment, owner: str, tag: str, parameters: dict[str, Any], trains: bool
) -> Deployment:
    """Return a deployment of a flow with what all of an environment have in common."""
    entrypoint = STANDING[flow].entrypoint
    loaded = flow_at(entrypoint)
    recipes, own = offered(environment), parameters.get("recipe")
    if own is not None:
        home = environment.home
        recipes = [own, *(one for one in recipes if below(home, one) != below(home, own))]
    return Deployment(
        flow=flow,
        name=name,
        entrypoint=entrypoint,
        description=(loaded.description or "").partition("\n\n")[0].strip(),
        version=code_version(),
        tags=tuple(dict.fromkeys((TAG, owner, environment.name, tag))),
        parameters=parameters,
        pool=environment.pool.name,
        home=environment.home,
        job_variables=job_variables(environment),
        one_at_a_time=trains,
        form=without_secrets(form_schema(loaded, recipes)),
    )


def job_variables(environment: Environment) -> dict[str, Any]:
    """Return what the pool's job template takes: the image, and the variables of a run, secrets by their blocks."""
    pool = environment.pool
    blocks = environment.secrets.blocks
    # A run whose worker was killed goes on, until it writes into a pipe that nobody reads any more.
    quiet = {"stream_output": False} if pool.type == "process" else {}
    return {
        **quiet,
        **pool.job_variables,
        **({"image": pool.image} if pool.image else {}),
        "env": {
            "PYTHONSAFEPATH": "1",  # a project's own folder `flows` below home is not to be taken for Réglage's
            HEARTBEAT: str(heartbeat()),  # whoever starts the worker: the automations count in these
            **({PRICES: environment.prices.model_dump_json(exclude_none=True)} if environment.prices else {}),
            **cast("dict[str, Any]", pool.job_variables.get("env") or {}),
            **{name: f"{{{{ prefect.blocks.secret.{block} }}}}" for name, block in blocks.items()},
        },
    }


def _registry_overrides(environment: Environment) -> list[str]:
    """Return how recipes are made to publish to the environment's registry."""
    if environment.registry is None:
        return []
    registry = registry_at(Place.parse(environment.registry, environment.endpoint_url))
    fields = registry.model_dump(exclude={"kind"}, exclude_none=True)
    told = "".join(f", {name}: {_quoted(value)}" for name, value in fields.items())
    return [f"publish.to={{kind: {registry.kind}{told}}}"]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def below(home: str, path: str) -> str:
    """Return a path as a run that starts in `home` finds it from any folder; a bucket's URI as it is."""
    return path if is_remote(path) else os.path.normpath(os.path.join(home, os.path.expanduser(path)))


def offered(environment: Environment) -> list[str]:
    """Return the recipes that a form offers: those of the environment, and those in its home's folder `recipes`."""
    there = sorted(Path(environment.home, "recipes").glob("*.yaml"))
    named = [one.recipe for one in environment.recipes]
    return list(dict.fromkeys([*named, *(f"recipes/{path.name}" for path in there)]))


def without_secrets(schema: Any) -> Any:
    """Let no text of a form hold a URL with a user's password, or one that is signed.

    Prefect keeps every parameter; its server holds them against the form before it does.
    """
    if isinstance(schema, list):
        return [without_secrets(member) for member in cast("list[Any]", schema)]
    if not isinstance(schema, dict):
        return schema
    part = {key: without_secrets(member) for key, member in cast("dict[str, Any]", schema).items()}
    if part.get("type") == "string" and not {"enum", "pattern", "format"} & {*part}:
        part["pattern"] = NO_SECRET_PATTERN
    return part


@cache
def flow_at(entrypoint: str) -> "Flow[..., Any]":
    """Return the flow at a module path."""
    module, _, name = entrypoint.rpartition(".")
    return cast("Flow[..., Any]", getattr(import_module(module), name))


@cache
def code_version() -> str:
    """Return Réglage's version and, where it is known, the commit: 0.2.0+1a2b3c4d5e6f."""
    found = re.fullmatch(r"([0-9a-f]{7,64})(-dirty)?", str(code_facts()["commit"]))
    if found is None:
        return ftlib.__version__
    return f"{ftlib.__version__}+{found[1][:12]}{'.dirty' if found[2] else ''}"


def check_parameters(deployment: Deployment) -> None:
    """Hold the default parameters against the flow's form, as the server does. Raises RecipeError."""
    if lines := [*_misfits(deployment)]:
        raise RecipeError("\n".join(f"{deployment.full_name}: {line}" for line in lines))


def _misfits(deployment: Deployment) -> Iterator[str]:
    from prefect.utilities.schema_tools.validation import ValidationError, validate

    properties = deployment.form.get("properties", {})
    for name in deployment.parameters:
        if name not in properties:  # Prefect's server lets these pass, and the run fails
            yield f"{name}: the flow has no such parameter; it has {', '.join(properties)}"
    try:
        validate(deployment.parameters, deployment.form, raise_on_error=True, ignore_required=True)
    except ValidationError as error:
        yield f"parameters do not fit the flow's form: {' '.join(str(error).split())}"
