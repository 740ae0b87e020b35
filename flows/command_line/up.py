"""`reglage up | down | status`: one machine's installation, started, stopped and looked at."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.options import home_option
from ftlib.errors import BusyError, RecipeError, ReglageError
from ftlib.storage.files import appearing, local_errors, private_folder
from ftlib.wording import counted

if TYPE_CHECKING:
    from deployments.machine.state import State, StateFolder
    from deployments.machine.supervisor import Supervisor

DETACH_SECONDS = 600.0
_KEPT = ("PATH", "HF_HOME", "CUDA_VISIBLE_DEVICES", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_USERNAME",
    "RAY_AUTH_TOKEN",
)
"""They stand in no unit, which is easily shown around, but in a file of their own."""
DOWN_SECONDS = 180.0
"""What a stop may take: runs and worker a minute each, then the rest."""


@click.command()
@click.argument("recipes", nargs=-1, type=UserPath(dir_okay=False), metavar="[RECIPE]...")
@click.option("--port", type=int, metavar="PORT", help="Of Prefect's pages; by default the last one, or 4200 and up.")
@click.option(
    "--database",
    envvar="REGLAGE_DATABASE",
    metavar="URL",
    help="PostgreSQL's URL, postgresql+asyncpg://user@host/name, or `sqlite`. By default that of last time, or SQLite.",
)
@click.option(
    "--env",
    "environment",
    metavar="ENV.yaml",
    envvar="REGLAGE_ENVIRONMENT",
    help="The environment to deploy. By default the one of last time, or pool reglage with --home as its home.",
)
@click.option("--detach", is_flag=True, help="Return when everything answers; `reglage down` stops it.")
@click.option(
    "--systemd",
    type=UserPath(dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Start nothing; write a user's systemd unit that does, or print it with `-`.",
)
@home_option
@json_option
def up(
    recipes: tuple[Path, ...],
    port: int | None,
    database: str | None,
    environment: str | None,
    detach: bool,
    systemd: Path | None,
    home: Path,
    as_json: bool,
) -> None:
    """Start what deployed runs need on this machine, and watch it: Prefect's server, worker, deployments, TensorBoard.

    Deploys each RECIPE. Ctrl-C stops everything: runs save what they trained, and go on at the next `up`.
    """
    from deployments.machine.database import database_url
    from deployments.machine.state import StateFolder
    from deployments.machine.supervisor import Supervisor

    folder, url = StateFolder(home), database_url(database)
    if environment is not None and Path(environment).is_file():
        environment = str(Path(environment).absolute())
    for recipe in recipes:
        if not recipe.is_file():
            raise RecipeError(f"{recipe} is not there; give the path of a recipe")
    if systemd is not None:
        _write_unit(folder, _words(recipes, port, environment), environment, database, systemd, as_json)
        return
    state, how = _running(folder), "up already"
    if state is None and detach:
        state, how = _detached(folder, _words(recipes, port, environment), database), "up"
    if state is None:
        supervisor = Supervisor(
            folder, _say, port, url, database is not None, environment, tuple(one.absolute() for one in recipes)
        )
        state = _served(supervisor, as_json)
    if state is not None:
        emit(_said(state, folder, how), _record(folder, state), as_json)


def _served(supervisor: Supervisor, as_json: bool) -> State | None:
    """Be `reglage up` until it is stopped, and say so; the other's state where somebody else is."""
    from deployments.machine.supervisor import AlreadyUp

    try:
        supervisor.serve(lambda reached: click.echo(_said(reached, supervisor.folder, "up"), err=as_json))
    except AlreadyUp:  # another began a moment ago, and may not have said so yet
        time.sleep(1.0)
        if (state := _running(supervisor.folder)) is None:
            raise
        return state
    emit("down", _record(supervisor.folder, supervisor.state), as_json)
    return None


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


@click.command()
@home_option
@json_option
def down(home: Path, as_json: bool) -> None:
    """Stop what `reglage up` started, in order, and wait until it is gone. Runs save what they trained."""
    from deployments.machine.state import StateFolder
    from deployments.machine.supervisor import Supervisor

    folder = StateFolder(home)
    words = "nothing was up"
    if folder.root.is_dir():
        state = folder.read()
        if state.serves() and state.supervisor is not None:
            _stop(folder, state)
            words = "down"
        else:
            left = Supervisor(folder, lambda line: click.echo(line, err=True)).clear()
            words = "down; `reglage up` had been killed, what it left is gone" if left else words
    emit(words, {"down": True, "home": str(folder.home), "what": words}, as_json)


@click.command()
@home_option
@json_option
def status(home: Path, as_json: bool) -> None:
    """Say what runs here: programs, since when, where to look, and the runs that go on and wait.

    Exit code 1 if not everything that is to run does.
    """
    from deployments.machine.state import StateFolder

    folder = StateFolder(home)
    state = folder.read()
    record = _record(folder, state)
    emit(lambda: _print(record), record, as_json)
    if not record["up"]:
        click.get_current_context().exit(1)


def _write_unit(
    folder: StateFolder, words: list[str], environment: str | None, database: str | None, file: Path, as_json: bool
) -> None:
    """Write or print a systemd unit, and say what to do with it."""
    from deployments.machine.programs import own_settings
    from deployments.machine.systemd import complaints, unit

    secrets, read = _variables(folder, environment)
    names = [name for name in (*_KEPT, *read) if name in os.environ]
    kept = {name: os.environ[name] for name in names} | own_settings()
    text = unit(folder, words, kept | ({"REGLAGE_DATABASE": database} if database else {}))
    if str(file) == "-":
        emit(text.rstrip("\n"), {"unit": text, "secrets": secrets}, as_json)
        return
    folder.make()
    with local_errors(file):
        private_folder(file.parent)
        with appearing(file) as stream:
            stream.write(text.encode())
        file.chmod(0o600)  # it may hold the database's password, and the server's
    said = complaints(file)
    if said:
        click.echo(f"note: systemd-analyze: {said}", err=True)
    name = file.stem
    steps = [f"write {', '.join(secrets)} into {folder.secrets}, as NAME=value lines; chmod 600"] if secrets else []
    steps += [
        "systemctl --user daemon-reload",
        f"systemctl --user enable --now {name}",
        "loginctl enable-linger  # it starts with the machine, and not with your first login",
    ]
    emit(
        "\n".join((f"{file} is written; next:", *(f"  {step}" for step in steps))),
        {"unit": text, "file": str(file), "complaints": said, "secrets": secrets},
        as_json,
    )


def _variables(folder: StateFolder, environment: str | None) -> tuple[list[str], list[str]]:
    """Return the names of the secrets that runs need, and of the variables that the environment's file holds.

    Raises RecipeError for an environment that `up` would refuse.
    """
    from deployments.environment import VARIABLE, read_environment

    asked: list[str] = []

    class Asked(dict[str, str]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.append(key)
            return super().get(key, default)

    read = read_environment(environment or folder.read().environment, Asked(os.environ, REGLAGE_HOME=str(folder.home)))
    set_here = sorted(name for name in os.environ if name in _CREDENTIALS)
    return list(dict.fromkeys([*read.secrets.variables, *set_here])), [
        name for name in dict.fromkeys(asked) if name not in ("REGLAGE_HOME", VARIABLE)
    ]


def _running(folder: StateFolder) -> State | None:
    """Return the state of a `reglage up` that runs here, once it is up; None if none does."""
    deadline = time.monotonic() + DETACH_SECONDS
    while time.monotonic() < deadline:
        state = folder.read()
        if not state.serves():
            return None
        if state.phase == "up":
            return state
        time.sleep(0.3)
    raise BusyError(f"`reglage up` is at it in {folder.home}, and not done; see `reglage status`")


def _words(recipes: tuple[Path, ...], port: int | None, environment: str | None) -> list[str]:
    """Return the arguments of `reglage up` again; not the database, which `ps` would show."""
    words = [str(recipe.absolute()) for recipe in recipes]
    words += [] if port is None else ["--port", str(port)]
    return words + ([] if environment is None else ["--env", environment])


def _detached(folder: StateFolder, words: list[str], database: str | None) -> State:
    """Start `reglage up` in a session of its own, and wait until it is up. Raises what it says."""
    folder.make()
    log = folder.log("up")
    with local_errors(log), log.open("ab") as stream:
        begin = stream.tell()
        environment = {**os.environ, **({"REGLAGE_DATABASE": database} if database else {})}  # `ps` shows arguments
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "ftlib", "up", *words, "--home", str(folder.home)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    _say(f"starting in the background, up to a minute; what it says is in {log}")
    while child.poll() is None:
        state = folder.read()
        if state.phase == "up" and state.supervisor is not None and state.supervisor.pid == child.pid:
            return state
        time.sleep(0.2)
    state = folder.read()
    if state.serves() and state.phase == "up":  # another was quicker
        return state
    with local_errors(log), log.open("rb") as stream:
        stream.seek(begin)
        lines = [line for line in stream.read().decode(errors="replace").splitlines() if line.startswith("reglage: ")]
    error = ReglageError(lines[-1].removeprefix("reglage: ") if lines else f"it ended; see {log}")
    error.exit_code = child.returncode or 1
    raise error


def _stop(folder: StateFolder, state: State) -> None:
    """Stop the `reglage up` that runs and wait for it. Raises BusyError if it does not end."""
    import signal

    assert state.supervisor is not None
    state.supervisor.send(signal.SIGTERM)
    if not state.supervisor.wait(DOWN_SECONDS):
        raise BusyError(
            f"`reglage up`, process {state.supervisor.pid}, has not ended after {DOWN_SECONDS:.0f} s; see "
            f"{folder.log('up')}, then `kill -9 {state.supervisor.pid}` and `reglage down` again"
        )


def _said(state: State, folder: StateFolder, how: str) -> str:
    """Return the few lines that say where everything is."""
    board = state.services["tensorboard"]
    return "\n".join(
        (
            f"{how}: {folder.home}, {state.said_database()}, since {state.since}",
            f"  Prefect      {state.url}",
            f"  TensorBoard  {board.url or board.note}",
            f"  runs         {_runs_page(state.url)}",
            f"  logs         {folder.log('server').parent}",
        )
    )


def _runs_page(url: str | None) -> str | None:
    """Return where Prefect shows all runs of the work place side by side (`flows.pages.runs_shown`)."""
    from ftlib.tracking.run_index import ARTIFACT

    return f"{url}/artifacts/key/{ARTIFACT}" if url else None


def _record(folder: StateFolder, state: State) -> dict[str, Any]:
    """Return what `reglage status --json` prints."""
    services: dict[str, Any] = {}
    for name, service in state.services.items():
        lives = service.process is not None and service.process.lives()
        services[name] = {
            "runs": lives,
            "pid": service.process.pid if service.process and lives else None,
            "since": service.process.since if service.process and lives else None,
            "restarts": service.restarts,
            "url": service.url,
            "note": service.note,
        }
    runs = _runs(state) if services.get("server", {}).get("runs") and state.url else None
    answers = runs is not None and services.get("worker", {}).get("runs", False)  # TensorBoard is no part of a run
    return {
        "up": state.serves() and state.phase == "up" and answers,
        "home": str(folder.home),
        "phase": state.phase if state.serves() or state.phase == "down" else "killed",
        "since": state.since,
        "pid": state.supervisor.pid if state.supervisor and state.serves() else None,
        "url": state.url,
        "database": state.said_database(),
        "queue": state.pool,
        "runs_page": _runs_page(state.url),
        "services": services,
        "runs": runs,
    }


def _runs(state: State) -> dict[str, list[dict[str, str | None]]] | None:
    """Return the runs that go on, those that wait for a place or a person, and those for which it is too early.

    None if the server does not answer.
    """
    from deployments.machine.api import GOING_ON, WAITING, Api
    from ftlib.errors import TransientError

    try:
        api = Api(state.url or "")
        going_on, waiting = api.runs(GOING_ON, state.pool), api.runs(WAITING, state.pool)
    except TransientError:
        return None
    later = sorted((run for run in waiting if run.is_later()), key=lambda run: run.due or "")
    kinds = {"going_on": going_on, "waiting": [run for run in waiting if not run.is_later()], "scheduled": later}
    return {
        kind: [{"id": run.id, "name": run.name, "state": run.state_name, "due": run.due} for run in runs]
        for kind, runs in kinds.items()
    }


def _print(record: dict[str, Any]) -> None:
    """Print the state as a few lines."""
    pid = f", process {record['pid']}" if record["pid"] else ""
    click.echo(f"{record['phase']}: {record['home']}, {record['database']}, since {record['since'] or 'never'}{pid}")
    for name, service in record["services"].items():
        if service["runs"]:
            restarts = f", started again {service['restarts']}x" if service["restarts"] else ""
            where = f", {service['url']}" if service["url"] else ""
            click.echo(f"  {name:<12} process {service['pid']} since {service['since']}{where}{restarts}")
        else:
            click.echo(f"  {name:<12} does not run{': ' + service['note'] if service['note'] else ''}")
    if record["runs"] is None:
        if record["phase"] == "killed":
            click.echo("  `reglage up` was killed; run it again: it takes over what still runs, and ends the rest")
        return
    for key, title in (("going_on", "going on"), ("waiting", "waiting")):
        runs = record["runs"][key]
        click.echo(f"  {title:<12} {counted(len(runs), 'run')}")
        for run in runs[:10]:
            click.echo(f"    {run['name']} ({run['state']}) {record['url']}/runs/flow-run/{run['id']}")
    if later := record["runs"]["scheduled"]:
        at = later[0]["due"][:16].replace("T", " ")
        click.echo(f"  {'scheduled':<12} {counted(len(later), 'run')}, the next at {at} UTC")
