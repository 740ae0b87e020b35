"""`reglage serve`: a published version behind HTTP, which follows its alias."""

from __future__ import annotations

import os
import secrets
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pydantic import ValidationError

from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.options import base_option, home_option
from flows.command_line.quiet import quiet_libraries
from flows.command_line.registry_options import open_registry, registry_options
from ftlib.errors import RecipeError
from ftlib.registry import ModelRegistry
from ftlib.registry.signing import PublicKey
from ftlib.registry.versions import Version, parse_spec
from ftlib.storage import Place, open_store
from ftlib.storage.files import in_bytes, local_errors
from ftlib.wording import counted
from ftlib.workspace import make_cache, user_cache

if TYPE_CHECKING:
    from ftlib.on_ray.serving import Running
    from ftlib.serving.plan import ServingPlan

PORT = 8000
TOKEN = "serve.token"
_LOOK_SECONDS = 1.0


@click.command()
@click.argument("model", metavar="NAME@ALIAS|NAME@NUMBER")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where it listens; others need a token.")
@click.option("--port", type=int, metavar="PORT", help=f"By default the first free one from {PORT} on.")
@click.option(
    "--token-file",
    type=UserPath(dir_okay=False),
    metavar="FILE",
    help="Holds the token that callers show. By default one is drawn and kept in --home's .reglage/.",
)
@click.option("--open", "opened", is_flag=True, help="Ask for no token; on the loopback alone.")
@click.option("--challenger", metavar="NAME@ALIAS|NAME@NUMBER", help="Another version of the model, asked beside it.")
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0),
    default=0.0,
    help="The part of the inputs that the challenger answers, by their ids: 0.1.",
)
@click.option("--shadow", is_flag=True, help="Ask the challenger everything; its answers are only logged.")
@click.option("--log", metavar="PLACE", help="Log answers and feedback into a folder, or s3://bucket/prefix.")
@click.option(
    "--log-inputs",
    type=click.Choice(["none", "text"]),
    default="none",
    show_default=True,
    help="Whether the log holds what was asked, and answers that quote it.",
)
@click.option("--log-seconds", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="Until written.")
@click.option("--replicas", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that answer.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of each; by default all cores, shared out.")
@click.option("--gpu", is_flag=True, help="One GPU for each replica, which computes there.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Inputs at once.")
@click.option(
    "--wait-ms",
    type=click.FloatRange(0.0, 10_000.0),
    default=2.0,
    show_default=True,
    help="How long a request waits for others to share a batch.",
)
@click.option(
    "--poll-seconds", type=click.FloatRange(0.1, 3600.0), default=2.0, show_default=True, help="Of the alias."
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), help="Of what writes: how long an answer may be.")
@click.option("--num-beams", type=click.IntRange(min=1, max=64), help="Of what writes: beginnings that it keeps.")
@click.option("--task", help="Which task of a version that has several.")
@click.option(
    "--key",
    type=UserPath(dir_okay=False),
    envvar="REGLAGE_PUBLIC_KEY",
    help="A public key (PEM): serve no version that it did not sign.",
)
@base_option
@registry_options
@home_option
@json_option
def serve(
    model: str,
    host: str,
    port: int | None,
    token_file: Path | None,
    opened: bool,
    challenger: str | None,
    log: str | None,
    replicas: int,
    threads: int | None,
    gpu: bool,
    batch_size: int,
    wait_ms: float,
    key: Path | None,
    given: tuple[Path, ...],
    registry: Place,
    home: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Serve a published version: POST /predict and /feedback, GET /version and /health. Ctrl-C stops it.

    An alias is followed: when it moves, the new version is pulled, checked, loaded and asked beside the old one, which
    answers until then, and on if the new one fails. Answers are those of `reglage predict`.
    """
    quiet_libraries()
    if gpu:
        _check_gpus(replicas)
    champion = _resolved(open_registry(registry), model, key)
    name, which = parse_spec(model)
    if which is None:
        raise RecipeError(f"got {model!r}, allowed are an alias or a number behind the name; give {model}@champion")
    token = _token(host, token_file, opened, home)
    plan = _plan(
        name=name,
        which=which,
        challenger=_challenger(open_registry(registry), name, challenger, key),
        registry=registry.uri if registry.remote else open_store(registry).uri,
        endpoint_url=registry.endpoint_url,
        key=str(key.absolute()) if key else None,
        bases=tuple(str(folder.absolute()) for folder in given),
        batch_size=batch_size,
        token_file=str(token) if token else None,
        log=_log(log, registry),
        **options,
    )
    from deployments.machine.ports import listen

    with closing(listen(port, first=PORT, host=host)) as held:
        port = held.getsockname()[1]
    assert port is not None
    threads = threads or max((os.cpu_count() or 1) // replicas, 1)
    record = {
        "url": f"http://{host}:{port}",
        "model": str(champion),
        "replicas": replicas,
        "threads": threads,
        "plan": plan.model_dump(mode="json"),
    }
    serving = _serving(plan, replicas, threads, gpu, wait_ms)
    _until_stopped(serving, host, port, lambda: click.echo(_said(champion, plan, record), err=as_json))
    emit("stopped", record, as_json)


def _check_gpus(replicas: int) -> None:
    """Raise RecipeError where there are not as many: Ray would wait for them for ever."""
    import torch

    if (seen := torch.cuda.device_count()) < replicas:
        raise RecipeError(
            f"--gpu: got {counted(replicas, 'replica')}, allowed is one for each GPU, and torch sees "
            f"{counted(seen, 'GPU')} here; give fewer --replicas, or leave it out"
        )


def _resolved(opened: ModelRegistry, spec: str, key: Path | None) -> Version:
    """Return what is to be served, pulled and checked: what is wrong with it is best said before Ray starts."""
    version = opened.resolve(spec)
    folder = make_cache(user_cache() / "versions") / version.manifest
    what = str(version) if str(version) == spec else f"{spec}, which is {version},"
    size = in_bytes(sum(file.bytes for file in opened.manifest(version).files))
    _say(f"checking {what} in the cache" if folder.exists() else f"pulling {what} {size} from {opened.store.uri}")
    opened.pull(version, folder, PublicKey(key) if key else None)
    return version


def _challenger(opened: ModelRegistry, name: str, spec: str | None, key: Path | None) -> str | int | None:
    if spec is None:
        return None
    other, which = parse_spec(spec)
    if other != name or which is None:
        raise RecipeError(f"--challenger: got {spec!r}, allowed is another version of {name}; give {name}@challenger")
    _resolved(opened, spec, key)
    return which


def _log(log: str | None, registry: Place) -> str | None:
    """Return the log's place, whole: a replica has another working folder. Raises StorageError for none of ours.

    A folder is made now: one that cannot be is told before anything starts, and `reglage monitor` finds it empty.
    """
    if log is None:
        return None
    place = registry.beside(log)
    if place.remote:
        return place.uri
    folder = Path(open_store(place).uri)
    with local_errors(folder, elsewhere="choose another --log"):
        folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _plan(**fields: Any) -> ServingPlan:
    from ftlib.serving.plan import ServingPlan

    try:
        return ServingPlan.model_validate(fields)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"--{str(part).replace('_', '-')}: " for part in problem["loc"])
        raise RecipeError(where + problem["msg"].removeprefix("Value error, ")) from None


def _token(host: str, file: Path | None, opened: bool, home: Path) -> Path | None:
    """Return the file of the token that callers show, drawn at the first time; None for a server that asks for none."""
    from deployments.machine.exposure import is_loopback
    from deployments.machine.state import StateFolder

    if opened and file is not None:
        raise RecipeError("--open asks for no token, and --token-file names one; leave one of them out")
    if opened and not is_loopback(host):
        raise RecipeError(f"--open: who reaches {host} could ask the model; leave it out, and callers show a token")
    if opened:
        return None
    if file is not None:
        if not file.is_file():
            raise RecipeError(f"--token-file: {file} is not there; write a token of 16 characters or more into it")
        return file.absolute()
    folder = StateFolder(home)
    folder.make()
    path = folder.root / TOKEN
    with local_errors(path, elsewhere="choose another --home"):
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            return path
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_urlsafe(32) + "\n")
    return path


def _serving(plan: ServingPlan, replicas: int, threads: int, gpu: bool, wait_ms: float) -> Any:
    try:
        from ftlib.on_ray.serving import Serving
    except ImportError as error:
        raise RecipeError(f"Ray Serve is not installed ({error}); pip install 'reglage[serve]'") from error
    return Serving(
        factory="ftlib.serving.server:served",
        spec=plan.model_dump(mode="json"),
        replicas=replicas,
        threads=threads,
        use_gpu=gpu,
        gather=2 * plan.batch_size,
        wait_seconds=wait_ms / 1000,
    )


def _until_stopped(serving: Any, host: str, port: int, ready: Any) -> None:
    """Serve until Ctrl-C or SIGTERM; say what becomes of it meanwhile."""
    from ftlib.on_ray.serving import running

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in handlers:
        signal.signal(number, _stop)
    try:
        with running(serving, host, port, _say) as server:
            try:
                ready()
                _watch(server)
            except KeyboardInterrupt:
                for number in handlers:  # what is being ended is ended once
                    signal.signal(number, signal.SIG_IGN)
                _tell(server)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _watch(server: Running) -> None:
    runs = True
    while True:
        time.sleep(_LOOK_SECONDS)
        _tell(server)
        if server.healthy() != runs:
            runs = not runs
            _say("all replicas answer again" if runs else "a replica does not answer; it is started again")


def _tell(server: Running) -> None:
    for line in server.told():
        _say(line)


def _say(line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {line}", err=True)


def _said(champion: Version, plan: ServingPlan, record: dict[str, Any]) -> str:
    """Return the few lines that say what is served, and where."""
    lines = [f"serving: {plan.name}@{plan.which} ({champion}) at {record['url']}"]
    lines += [f"  token      {plan.token_file or 'none is asked for'}"]
    lines += [f"  log        {plan.log}, inputs: {plan.log_inputs}" if plan.log else "  log        none"]
    if plan.challenger is not None:
        how = "asked in the shadow" if plan.shadow else f"answers {plan.share:.0%} of the inputs"
        lines += [f"  challenger {plan.name}@{plan.challenger}, {how}"]
    threads = counted(record["threads"], "thread")
    lines += [f"  replicas   {record['replicas']} of {threads}, {counted(plan.batch_size, 'input')} at once"]
    return "\n".join(lines)
