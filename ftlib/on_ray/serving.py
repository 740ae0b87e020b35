"""Ray Serve around something that answers requests: replicas, their health and their end. It knows nothing of models.

What answers is made in every replica by a factory that is named, `module:callable`, and gets a JSON text, a function
that tells people a line, and torch's name of the device that it computes on. A replica takes its requests in an event
loop, gathers them into batches, and lets these be answered in one thread of its own. On one machine replicas listen
themselves; in a cluster Ray Serve's proxies hand them what comes.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import os
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Protocol, cast

import ray
from pydantic import Field
from ray import serve
from ray.exceptions import RayError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ftlib.config import Config
from ftlib.errors import ReglageError, TransientError, first_line
from ftlib.on_ray.batches import Batches
from ftlib.on_ray.listening import Listener, reserved
from ftlib.on_ray.session import session
from ftlib.training.compute import Compute
from ftlib.wording import counted

NAME = "reglage"
_NOTES = "reglage-serve-notes"
_STOP_SECONDS, _START_SECONDS = 20.0, 600.0
_NICENESS = "RAY_worker_niceness"
"""By default Ray's workers, so replicas too, get what all others leave of the processor: 15."""

log = logging.getLogger("ray.serve")


class Served(Protocol):
    """What a factory makes."""

    def most_bytes(self) -> int:
        """Return how long a request's body may be."""
        ...

    def respond(
        self,
        method: str,
        path: str,
        authorization: str,
        body: bytes,
        ask: Callable[[Sequence[Any]], Awaitable[list[Any]]],
    ) -> Awaitable[Any]:
        """Return a status, a JSON object and headers; what is given to `ask` comes to `answer` in a batch."""
        ...

    def answer(self, questions: Sequence[Any]) -> list[Any]:
        """Return an answer for each; called from one thread."""
        ...

    def close(self) -> None:
        """End."""
        ...


class Serving(Config):
    """How something is served."""

    factory: str
    """`module:callable`, which makes it in every replica."""
    spec: Any
    """What the factory gets, as JSON."""
    replicas: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1)
    """CPU threads, and CPUs asked for, of each replica."""
    use_gpu: bool = False
    """One GPU for each replica, which computes there."""
    gather: int = Field(default=64, ge=1)
    """Questions that go into one call of `answer`, at most."""
    wait_seconds: float = Field(default=0.002, ge=0.0)
    """How long the first of them waits for others; those that come while a batch is answered wait for its end."""
    most_waiting: int = Field(default=512, ge=1)
    """Requests that a replica has taken; as many again may wait, all others get a 503."""
    host: str = "127.0.0.1"
    port: int | None = None
    """Where replicas listen; None where Ray Serve's proxies do."""

    @property
    def device(self) -> str:
        """Return where a replica computes, as torch calls it: Ray shows it its own GPU alone."""
        return "cuda" if self.use_gpu else "cpu"


def application(given: dict[str, Any]) -> serve.Application:
    """Return the application of a `Serving`; what a RayService's `import_path` names, with its `args`."""
    serving = Serving.model_validate(given)
    actor: dict[str, Any] = {"num_cpus": serving.threads, "num_gpus": 1 if serving.use_gpu else 0}
    deployment: Any = serve.deployment(_Replica)
    return deployment.options(
        name=NAME,
        num_replicas=serving.replicas,
        ray_actor_options=actor,
        max_ongoing_requests=serving.most_waiting,
        max_queued_requests=serving.most_waiting,
        health_check_period_s=5.0,
        graceful_shutdown_timeout_s=_STOP_SECONDS,
        graceful_shutdown_wait_loop_s=0.5,
    ).bind(serving.model_dump(mode="json"))


class _Replica:
    """One process that answers."""

    def __init__(self, given: dict[str, Any]) -> None:
        serving = Serving.model_validate(given)
        _few_threads(serving.threads)
        module, _, name = serving.factory.partition(":")
        factory = getattr(importlib.import_module(module), name)
        self._listener: Listener | None = None
        self._taken, self._most = 0, 2 * serving.most_waiting
        try:
            self._served = cast("Served", factory(json.dumps(serving.spec), _tell, serving.device))
            self._batches = Batches(self._served.answer, serving.gather, serving.wait_seconds)
            if serving.port is not None:
                self._listener = Listener(self._app, serving.host, serving.port, _STOP_SECONDS / 2)
        except ReglageError as error:
            _tell(f"error {error.exit_code} {error}")
            raise

    async def __call__(self, request: Request) -> JSONResponse:
        body = await _body(request, self._served.most_bytes())
        if body is None:
            message = f"the body is longer than the {self._served.most_bytes():,} bytes that are allowed; send less"
            return _refusal(413, "DataError", message)
        authorization = request.headers.get("authorization", "")
        path, ask = request.url.path, self._batches.ask
        status, reply, headers = await self._served.respond(request.method, path, authorization, body, ask)
        return JSONResponse(reply, status, headers)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that came from the network itself."""
        request = Request(scope, receive)
        if self._taken >= self._most:
            await _refusal(503, "BusyError", "too many requests wait here; ask again later")(scope, receive, send)
            return
        self._taken += 1
        try:
            response = await self(request)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("%s %s failed", request.method, request.url.path)
            response = _refusal(500, "ReglageError", "the server failed at this request; its log says why")
        finally:
            self._taken -= 1
        await response(scope, receive, send)

    def check_health(self) -> None:
        """Raise where nothing can reach it: Ray Serve puts another in its place."""
        if self._listener and not self._listener.listens():
            raise RuntimeError("it listens no longer")

    def __del__(self) -> None:
        if listener := getattr(self, "_listener", None):
            listener.close()
        if served := getattr(self, "_served", None):
            served.close()


def _refusal(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"kind": kind, "message": message}}, status)


async def _body(request: Request, most: int) -> bytes | None:
    """Return a request's body, or None once it is longer than it may be."""
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        return None
    parts, size = list[bytes](), 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if size > most:
            return None
    return b"".join(parts)


def _few_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _tell(line: str) -> None:
    """Tell a line to the log, and to whoever started a local server."""
    log.warning("%s", line)
    with contextlib.suppress(ValueError):  # on a cluster nobody listens
        cast("Any", ray.get_actor(_NOTES)).tell.remote(line)


class _Notes:
    """Keeps the lines that replicas tell until they are printed."""

    def __init__(self) -> None:
        self._lines = list[str]()

    def tell(self, line: str) -> None:
        self._lines = [*self._lines[-200:], line]

    def taken(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


class Running:
    """A server that answers."""

    def __init__(self, notes: Any) -> None:
        self._notes = notes

    def told(self) -> list[str]:
        """Return what replicas told since the last call; of a machine that has no time for it, nothing yet."""
        try:
            return ray.get(self._notes.taken.remote(), timeout=_START_SECONDS)
        except RayError:
            return []

    def healthy(self) -> bool:
        """Say whether all replicas run."""
        return serve.status().applications[NAME].status == "RUNNING"


@contextlib.contextmanager
def running(serving: Serving, host: str, port: int, tell: Callable[[str], object]) -> Generator[Running]:
    """Serve it while the block runs, by a Ray of its own; `tell` is told what takes its time. From the main thread.

    Raises what a factory raises, by its words, BusyError for a taken port, and TransientError where Ray Serve does not
    start.
    """
    compute = Compute(workers=serving.replicas, threads=serving.threads, use_gpu=serving.use_gpu)
    os.environ[_NICENESS] = "0"  # before Ray's own processes, which inherit it
    for name in ("ray.serve", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    tell("starting Ray; with the replicas this may take a minute")
    with contextlib.ExitStack() as ending, contextlib.closing(reserved(host, port)), session(compute):
        tell(f"starting {counted(serving.replicas, 'replica')}, each of which loads the model")
        actor: Any = ray.remote(_Notes)
        notes = actor.options(name=_NOTES, num_cpus=0).remote()
        here = Running(notes)
        try:
            _start(serving.model_copy(update={"host": host, "port": port}), here)
            yield here
        finally:  # Ray prints that the controller, which ends itself, is dead
            ending.enter_context(contextlib.redirect_stderr(io.StringIO()))
            serve.shutdown()


def _start(serving: Serving, here: Running) -> None:
    """Start Ray Serve with the application, and wait until it answers."""
    quiet: Any = {"log_level": "WARNING", "enable_access_log": False}
    try:
        serve.start(proxy_location="Disabled", logging_config=quiet)
        serve.run(application(serving.model_dump(mode="json")), name=NAME, route_prefix="/", logging_config=quiet)
    except Exception as error:
        for line in here.told():
            word, _, rest = line.partition(" ")
            if word == "error":
                code, _, said = rest.partition(" ")
                refused = ReglageError(said)
                refused.exit_code = int(code)
                raise refused from None
        raise TransientError(
            f"Ray Serve did not start: {first_line(error)}; run again when this machine has less to do"
        ) from error
