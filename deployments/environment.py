"""An environment (dev, staging, production) as a value: what differs between two installations, and nothing else.

It is written in YAML. A line that cannot be meant, such as an unknown key, a variable that is not set, a schedule
without a time zone or an image that is not pinned, is an error with its place in the file.
"""

import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, cast
from zoneinfo import ZoneInfo, available_timezones

import yaml
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, field_validator, model_validator

from ftlib.config import Config, Name, user_path
from ftlib.costs.prices import Prices
from ftlib.errors import RecipeError, StorageError
from ftlib.recipe.file import explain, read_yaml
from ftlib.storage import Place
from ftlib.urls import secrets_within

VARIABLE = "REGLAGE_ENVIRONMENT"
"""Names the file to read where a command was given none."""

_UNPINNED = {"", "latest", "main", "master", "edge", "nightly", "stable"}
_SECRET_NAME = re.compile(r"(?i)(secret|token|passw|credential|private|api_?key|access_?key|auth_string|_dsn$|^dsn$)")
_HERE = Path(__file__).parent / "environments"

VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


def _cron(cron: str) -> str:
    """Refuse what is no cron expression of minutes, and one that never comes. Raises ValueError."""
    from prefect._vendor.croniter import croniter  # Prefect's own schedules are read by this one

    if len(cron.split()) != 5 and not cron.startswith("@"):
        raise ValueError(f"{cron!r} is no cron expression; write minute, hour, day, month, weekday, as '0 3 * * *'")
    try:
        if {*cron.casefold().split()} & {"r", "h"}:
            raise ValueError("random and hashed fields are not supported")
        croniter(cron, datetime.now(UTC)).get_next(datetime)
    except (ValueError, KeyError, OverflowError) as error:
        raise ValueError(
            f"{cron!r} is no cron expression that comes round ({str(error) or 'not readable'}); write minute, hour, "
            "day, month, weekday, as '0 3 * * *'"
        ) from None
    return cron


def _timezone(name: str) -> str:
    """Refuse what is no name of the IANA's. Raises ValueError."""
    if name not in available_timezones():
        raise ValueError(f"{name!r} is no time zone; write the IANA's name of one, as Europe/Paris or UTC")
    return name


class Schedule(Config):
    """When a deployment runs by itself."""

    cron: Annotated[str, AfterValidator(_cron)]
    """Minute, hour, day, month, weekday."""
    timezone: Annotated[str, AfterValidator(_timezone)]
    """Whose clock the cron expression means, by the IANA's name; daylight saving time follows it."""
    active: bool | None = None
    """Whether it is on; null: as it is on the server, and on where it is new."""

    def next_time(self, after: datetime) -> datetime:
        """Return when it is due next after a time with a zone, by its own clock, as Prefect's scheduler has it.

        A time that comes twice counts once. One that a change of clocks leaves out is said to come an hour later; with
        Prefect it comes an hour earlier or not at all.
        """
        from prefect._vendor.croniter import croniter

        zone = ZoneInfo(self.timezone)
        # By the clock on the wall: over a change of clocks the library's own arithmetic is off by an hour.
        wall = croniter(self.cron, after.astimezone(zone).replace(tzinfo=None))
        due = wall.get_next(datetime).replace(tzinfo=zone)
        while due.astimezone(UTC) <= after:  # an hour that comes twice
            due = wall.get_next(datetime).replace(tzinfo=zone)
        return due.astimezone(UTC).astimezone(zone)

    def __str__(self) -> str:
        """Write it as people say it."""
        return f"{self.cron} {self.timezone}"


class DeployedRecipe(Config):
    """A recipe that is retrained on its own: by hand, on a schedule, when its data changes."""

    recipe: str
    """Path of the recipe; it is read here, and the worker finds it below `home`."""
    schedules: tuple[Schedule, ...] = ()
    """When it is retrained, data allowing; none: by hand or by event only."""
    event: bool = False
    """Whether `reglage.data.changed` for this model's data starts it, or `reglage.drift` or `reglage.quality` of its
    answers."""
    watch: tuple[Schedule, ...] = ()
    """When its files are looked at; none: every 15 minutes with those of other recipes, where it has `event`."""
    monitor: tuple[Schedule, ...] = ()
    """When its live answers are looked at, in the log that the recipe's `monitor` names; none: by hand only."""
    approval: Literal["automatic", "by_hand"] | None = None
    """Whether a promotion waits for a person; null: as the recipe says."""
    work: str | None = None
    """The work folder; null: the environment's."""
    overrides: tuple[str, ...] = ()
    """Other fields of the recipe, as path=value."""
    paused: bool | None = None
    """Whether neither schedules nor events start it; null: as it is on the server."""


class WorkPool(Config):
    """Where runs are queued, and what a worker starts for each."""

    name: Name = "reglage"
    """The pool's name on the server."""
    type: str = "process"
    """Prefect's type: `process` on the worker's machine, or one of containers, as docker or kubernetes."""
    image: str | None = None
    """What containers are started from, pinned by a version's tag or a digest; needed for every type but process."""
    job_template: str | None = None
    """A JSON file with the pool's base job template, or `kubernetes-job.json`, which Réglage brings; null: as it is on
    the server, and of a new pool what Prefect's worker of the type has."""
    job_variables: dict[str, Any] = Field(default_factory=dict)
    """What else the pool's job template takes, for every deployment."""
    limit: int | None = Field(default=None, ge=1)
    """How many runs of the whole pool go on at once; null: no limit."""

    @model_validator(mode="after")
    def _pinned(self) -> "WorkPool":
        if self.type == "process":
            if self.image is not None:
                raise ValueError("image: a pool of type process starts no container; leave it out")
            return self
        if self.image is None:
            raise ValueError(f"image: required for a pool of type {self.type}; give name:version or name@sha256:digest")
        check_pinned(self.image)
        return self

    @model_validator(mode="after")
    def _variables_are_known(self) -> "WorkPool":
        if self.job_template is None:
            return self
        known = self.template()["variables"]["properties"]
        if unknown := sorted({*self.job_variables} - {*known}):
            raise ValueError(
                f"job_variables: {', '.join(unknown)}: {self.job_template} has no such variable; it has "
                f"{', '.join(sorted(known))}"
            )
        return self

    def template(self) -> dict[str, Any]:
        """Read `job_template`; without one it is empty. Raises ValueError for a file that is no base job template."""
        if self.job_template is None:
            return {}
        path = user_path(self.job_template)
        path = path if path.exists() else _HERE / self.job_template
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(read["variables"]["properties"], dict) or not isinstance(read["job_configuration"], dict):
                raise TypeError("variables.properties and job_configuration are objects")
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"job_template: {self.job_template} is no base job template ({type(error).__name__}: {error}); write a "
                "file as `prefect work-pool get-default-base-job-template --type kubernetes` prints"
            ) from None
        return cast("dict[str, Any]", read)

    @model_validator(mode="after")
    def _no_secrets(self) -> "WorkPool":
        for name, value in cast("dict[str, Any]", self.job_variables.get("env") or {}).items():
            if _SECRET_NAME.search(name) and value and not str(value).startswith("{{ prefect.blocks.secret."):
                raise ValueError(f"job_variables.env.{name}: a secret would stand in the server; name it in `secrets`")
        return self


def check_pinned(image: str) -> None:
    """Raise ValueError for a container image that may be another one tomorrow."""
    name, at, digest = image.partition("@")
    if at and re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        return
    tag = name.rpartition("/")[2].partition(":")[2]
    if at or tag.lower() in _UNPINNED:
        raise ValueError(
            f"image: {image!r} is not pinned ({'no digest' if at else tag or 'no tag'}); give name:version or "
            "name@sha256:digest"
        )


class Secrets(Config):
    """Secrets by name; their values stand nowhere in this file, and nowhere in a deployment."""

    variables: tuple[VariableName, ...] = ()
    """Environment variables that the worker's own environment holds."""
    blocks: dict[VariableName, str] = Field(default_factory=dict)
    """Environment variables of a run, each with the name of the Prefect Secret block that the worker reads."""

    @field_validator("blocks")
    @classmethod
    def _names(cls, blocks: dict[str, str]) -> dict[str, str]:
        for variable, block in blocks.items():
            if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", block):
                raise ValueError(f"{variable}: give the name of a Secret block: lower case, digits and dashes")
        return blocks


Occasion = Literal[
    "failed",
    "crashed",
    "refused",
    "waiting",
    "held",
    "superseded",
    "promoted",
    "too_old",
    "drifted",
    "worse",
    "rolled_back",
]


class Notification(Config):
    """Who is told what (`deployments.notifications`)."""

    block: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]+/[a-z0-9-]+$")]
    """A notification block on the server, as type/name: slack-webhook/alerts."""
    events: tuple[Occasion, ...] = (
        "failed",
        "crashed",
        "refused",
        "waiting",
        "held",
        "too_old",
        "drifted",
        "worse",
        "rolled_back",
    )
    """What is told: runs that failed, crashed, were refused, wait for a person, are held by a rollback, were superseded
    or promoted a version; a model that no retraining looked at for long; live answers that drifted, are worse than at
    publishing, or made a rule roll back."""
    too_old_days: int = Field(default=7, ge=1, le=365)
    """After so many days without a retraining that ended well a model is too old."""


def _local_folder() -> str:
    return os.environ.get("REGLAGE_HOME") or os.getcwd()


class Environment(Config):
    """One installation: a pool, a home, a registry, and the recipes it keeps fresh."""

    name: Name = "dev"
    """What it is called; deployments carry it as the tag reglage:NAME, by which they are known to be its own."""
    pool: WorkPool = WorkPool()
    """Where its runs are queued."""
    home: str = Field(default_factory=_local_folder)
    """The folder that a run starts in, on the worker's machine; relative paths of recipes count from it."""
    work: str = "work"
    """The work folder."""
    registry: str | None = None
    """A folder or s3://bucket/prefix that every recipe publishes to; null: as each recipe says."""
    endpoint_url: str | None = None
    """Of the registry's S3 server, if it is not AWS."""
    suffix: Annotated[str, StringConstraints(pattern=r"^(-[a-z0-9-]+)?$")] = ""
    """Behind every deployment's name, as -staging, where two environments share one server."""
    recipes: tuple[DeployedRecipe, ...] = ()
    """Recipes that are deployed, each for the model it publishes."""
    prices: Prices | None = None
    """What things cost, for the cost and the budget of its runs; null: as the worker's own REGLAGE_PRICES says."""
    janitor_deletes: bool = False
    """Whether the janitor, nightly, clears away what runs left behind; without it it shows what it would."""
    limits: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Global concurrency limits by name."""
    notifications: tuple[Notification, ...] = ()
    """Who is told what."""
    secrets: Secrets = Secrets()
    """Secrets by name."""

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: str) -> str:
        path = user_path(home)
        if not path.is_absolute():
            raise ValueError(f"{home!r} is relative; give the whole path: a worker starts in another folder")
        return os.path.normpath(path)

    @field_validator("registry")
    @classmethod
    def _place(cls, registry: str | None) -> str | None:
        if registry is not None:
            try:
                Place.parse(registry)
            except StorageError as error:
                raise ValueError(str(error)) from None
        return registry

    @model_validator(mode="after")
    def _without_secrets(self) -> "Environment":
        problems = [
            f"{path}: {secret} would stand in the server; leave it to `secrets`"
            for path, secret in secrets_within(self.model_dump(mode="json"))
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def tag(self) -> str:
        """Return the tag of what this environment owns on a server."""
        return f"reglage:{self.name}"


def read_environment(path: str | Path | None = None, variables: Mapping[str, str] = os.environ) -> Environment:
    """Read an environment's file; without one, that of $REGLAGE_ENVIRONMENT, or else this folder's own environment.

    `${NAME}` in a value is the environment variable's text, and `$$` a dollar sign. dev, staging and production name
    the files that Réglage brings. Raises RecipeError, a line for each problem with its place.
    """
    path = path or variables.get(VARIABLE) or None
    if path is None:
        return Environment()
    brought = _HERE / f"{path}.yaml"
    file = brought if brought.is_file() and not user_path(path).exists() else user_path(path)
    data = read_yaml(file, "an environment")
    lines = _lines(file.read_text(encoding="utf-8"))
    unset: list[str] = []
    data = _substituted(data, (), variables, lambda at, words: unset.append(f"{_at(file, lines, at)}: {words}"))
    if unset:
        raise RecipeError("\n".join(unset))
    try:
        return Environment.model_validate(data)
    except ValidationError as error:
        schema = Environment.model_json_schema()
        raise RecipeError(
            "\n".join(
                f"{_at(file, lines, problem['loc'])}: {line}"
                for problem in error.errors()
                for line in explain([problem], data, schema)
            )
        ) from None


_Spot = tuple[str | int, ...]


def _at(file: Path, lines: Mapping[_Spot, int], spot: _Spot) -> str:
    """Write the file and the line of a spot, or of the nearest that is in the file."""
    near = next(spot[:length] for length in range(len(spot), -1, -1) if spot[:length] in lines)
    return f"{file}:{lines[near]}"


def _lines(text: str) -> dict[_Spot, int]:
    """Return the line of every key and list member of a YAML text that can be read."""
    found: dict[_Spot, int] = {(): 1}

    def walk(node: yaml.Node, spot: _Spot) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*spot, str(key.value))] = key.start_mark.line + 1
                walk(value, (*spot, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                found[(*spot, i)] = value.start_mark.line + 1
                walk(value, (*spot, i))

    walk(cast("yaml.Node", yaml.compose(text, yaml.SafeLoader)), ())
    return found


_DOLLAR = re.compile(r"\$(\$|\{[^}]*\}?)?")


def _substituted(value: Any, spot: _Spot, variables: Mapping[str, str], say: Any) -> Any:
    """Replace `${NAME}` in every text; `say` is told of what cannot be, with its spot."""
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {key: _substituted(member, (*spot, key), variables, say) for key, member in members.items()}
    if isinstance(value, list):
        listed = cast("list[Any]", value)
        return [_substituted(member, (*spot, i), variables, say) for i, member in enumerate(listed)]
    if not isinstance(value, str):
        return value

    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        named = re.fullmatch(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", match[0])
        if named is None:
            say(spot, f"{match[0]!r} names no variable; write ${{NAME}}, or $$ for a dollar sign")
        elif _SECRET_NAME.search(named[1]):
            say(spot, f"${{{named[1]}}} is a secret by its name; secrets go by name: list it in `secrets`")
        elif not variables.get(named[1]):
            say(spot, f"the variable {named[1]} is not set; set it, or write the value")
        else:
            return variables[named[1]]
        return ""

    return _DOLLAR.sub(one, value)
