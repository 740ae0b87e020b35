"""Stands between S3Store and a real server, and does to requests what networks and stores do to them.

    with FaultProxy("http://127.0.0.1:9000") as proxy:
        proxy.plan(refused(503, "SlowDown"), times=2, where=lambda call: call.operation == "create")
        S3Store(bucket, "", proxy.url)

What no plan catches goes through unchanged. Every request is recorded, so that a test can say how many there may be.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import TracebackType
from typing import TypeAlias

from aiohttp import ClientSession, web
from yarl import URL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "date", "server"}

FOLDERS = (
    *("blobs", "probes", "versions", "manifests", "aliases", "leases"),
    *("stages", "claims", "used", "shared", "carried", "place.json"),
)


@dataclass(frozen=True)
class Call:
    """One request as it came in."""

    method: str
    target: str
    headers: dict[str, str] = field(hash=False)
    body: bytes = field(repr=False)

    @property
    def operation(self) -> str:
        """create, put, part, start, complete, abort, list, get, head or delete."""
        query = URL(self.target, encoded=True).query
        if self.method == "PUT":
            return "part" if "partNumber" in query else "create" if "If-None-Match" in self.headers else "put"
        if self.method == "POST":
            return "start" if "uploads" in query else "complete"
        if self.method == "DELETE":
            return "abort" if "uploadId" in query else "delete"
        return "list" if "list-type" in query else self.method.lower()

    @property
    def folder(self) -> str:
        """The folder of a registry or work place it is about: blobs, versions, stages; a part or a listing its own."""
        path = URL(self.target, encoded=True).path
        return next((name for name in FOLDERS if name in path), "")

    @property
    def spot(self) -> tuple[str, str]:
        """Where in the protocol this is."""
        return self.operation, self.folder

    def identity(self) -> tuple[str, str, str, str]:
        """What a repetition of this call shares with it."""
        return self.method, self.target, self.headers.get("Range", ""), hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Answer:
    """A server's reply."""

    status: int
    headers: dict[str, str]
    body: bytes


Send: TypeAlias = Callable[..., Awaitable[Answer]]
Fault: TypeAlias = Callable[[Call, Send], Awaitable[Answer | None]]
"""Given a call and a way to let the server do it, with another body or other headers: an answer, or None for a cut."""


def error(status: int, code: str, message: str = "", **headers: str) -> Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return Answer(status, {"Content-Type": "application/xml", **headers}, body)


def refused(status: int, code: str) -> Fault:
    """The server says no, and has done nothing."""

    async def fault(call: Call, send: Send) -> Answer:
        return error(status, code)

    return fault


def done_but_500() -> Fault:
    """The server has done it, and says that it failed."""

    async def fault(call: Call, send: Send) -> Answer:
        await send()
        return error(500, "InternalError")

    return fault


def slow(seconds: float) -> Fault:
    async def fault(call: Call, send: Send) -> Answer:
        await asyncio.sleep(seconds)
        return await send()

    return fault


def reset_before() -> Fault:
    async def fault(call: Call, send: Send) -> None:
        return None

    return fault


def reset_after() -> Fault:
    """The server has done it, and the connection breaks before a byte of the reply."""

    async def fault(call: Call, send: Send) -> None:
        await send()

    return fault


def lost_reply() -> Fault:
    """The server has done it, and nothing comes back, not even an end of the connection."""

    async def fault(call: Call, send: Send) -> None:
        await send()
        await asyncio.sleep(3600)

    return fault


def silence() -> Fault:
    """The server does nothing and says nothing."""

    async def fault(call: Call, send: Send) -> None:
        await asyncio.sleep(3600)

    return fault


def flipped() -> Fault:
    """One bit of what is downloaded is another."""

    async def fault(call: Call, send: Send) -> Answer:
        answer = await send()
        return Answer(answer.status, answer.headers, flip(answer.body))

    return fault


def flipped_on_the_way_up() -> Fault:
    """One bit of what is uploaded is another."""

    async def fault(call: Call, send: Send) -> Answer:
        return await send(flip(call.body))

    return fault


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def truncated() -> Fault:
    """The reply promises its whole length, and breaks off in the middle."""

    async def fault(call: Call, send: Send) -> Answer:
        answer = await send()
        half = answer.body[: len(answer.body) // 2]
        return Answer(answer.status, {**answer.headers, "Content-Length": str(len(answer.body))}, half)

    return fault


def taken_without_a_reason() -> Fault:
    """A 412 in Ceph's way: its body names no condition and no message."""

    async def fault(call: Call, send: Send) -> Answer:
        answer = await send()
        return error(412, "PreconditionFailed") if answer.status == 412 else answer

    return fault


def clock_of_the_server(ahead: timedelta) -> Fault:
    """The server checks the time in the signature, as all do, against a clock of its own."""

    async def fault(call: Call, send: Send) -> Answer:
        now = datetime.now(UTC) + ahead
        signed = datetime.strptime(call.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(now - signed) > timedelta(minutes=15):
            return error(403, "RequestTimeTooSkewed", Date=format_datetime(now, usegmt=True))
        return await send()

    return fault


def key_no_longer_valid(key: str) -> Fault:
    """The credentials with this key have expired; others are fine."""

    async def fault(call: Call, send: Send) -> Answer:
        return error(400, "ExpiredToken") if f"Credential={key}/" in call.headers["Authorization"] else await send()

    return fault


def unconditional() -> Fault:
    """The server takes no notice of a write's condition."""

    async def fault(call: Call, send: Send) -> Answer:
        return await send(headers={name: value for name, value in call.headers.items() if name != "If-None-Match"})

    return fault


@dataclass
class _Plan:
    fault: Fault
    where: Callable[[Call], bool]
    left: float
    once_per_spot: bool
    struck: set[tuple[str, str]] = field(default_factory=set)

    def strikes(self, call: Call) -> bool:
        if self.left <= 0 or not self.where(call) or (self.once_per_spot and call.spot in self.struck):
            return False
        self.struck.add(call.spot)
        self.left -= 1
        return True


class FaultProxy:
    """Listens on a free port of loopback while the `with` block runs, on a thread of its own."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.calls: list[Call] = []
        self.struck: list[Call] = []
        self._plans: list[_Plan] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def plan(
        self,
        fault: Fault,
        *,
        where: Callable[[Call], bool] = lambda call: True,
        times: float = float("inf"),
        once_per_spot: bool = False,
    ) -> None:
        """Let `fault` strike the next `times` calls that `where` picks; with `once_per_spot`, one of each kind."""
        self._plans.append(_Plan(fault, where, times, once_per_spot))

    def clear(self) -> None:
        """Let everything through again, and forget what was."""
        self._plans.clear()
        self.calls.clear()
        self.struck.clear()

    def most_repeated(self, where: Callable[[Call], bool] = lambda call: True) -> int:
        """How often the call that was sent most often was sent."""
        return max(Counter(call.identity() for call in self.calls if where(call)).values(), default=0)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None):
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> str:
        self._session = ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=0)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        for reply in asyncio.all_tasks() - {asyncio.current_task()}:  # those that would never have come
            reply.cancel()
        await self._runner.cleanup()
        await self._session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.raw_path, dict(request.headers), await request.read())
        self.calls.append(call)
        plan = next((plan for plan in self._plans if plan.strikes(call)), None)
        if plan is None:
            answer = await self._send(call)
        else:
            self.struck.append(call)
            answer = await plan.fault(
                call, lambda body=call.body, headers=call.headers: self._send(replace(call, body=body, headers=headers))
            )
        return await self._reply(request, answer)

    async def _send(self, call: Call) -> Answer:
        headers = {name: value for name, value in call.headers.items() if name.lower() not in HOP_BY_HOP}
        url = URL(self.upstream + call.target, encoded=True)
        unsigned = {"Content-Type", "Accept", "Accept-Encoding", "User-Agent"}  # Azure signs that there is none
        async with self._session.request(
            call.method, url, headers=headers, data=call.body or None, skip_auto_headers=unsigned
        ) as reply:
            return Answer(reply.status, dict(reply.headers), await reply.read())

    @staticmethod
    async def _reply(request: web.Request, answer: Answer | None) -> web.StreamResponse:
        assert request.transport
        if answer is None:
            request.transport.abort()
            return web.Response()
        kept = {"Content-Length": str(len(answer.body)), **answer.headers}
        dated = {"date"} & {name.lower() for name in answer.headers}
        headers = {name: value for name, value in kept.items() if name.lower() not in HOP_BY_HOP - dated}
        response = web.StreamResponse(status=answer.status, headers=headers)
        await response.prepare(request)
        await response.write(answer.body)
        if request.method != "HEAD" and len(answer.body) < int(headers["Content-Length"]):
            request.transport.abort()
        else:
            await response.write_eof()
        return response
