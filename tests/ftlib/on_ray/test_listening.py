"""A replica's own listener: a port that several share, and an end that loses no request."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Generator
from http.client import HTTPConnection
from typing import Any

import pytest

from ftlib.errors import BusyError
from ftlib.on_ray.listening import Listener, reserved

HOST = "127.0.0.1"


@pytest.fixture
def port() -> Generator[int]:
    """A port that nobody else is given meanwhile."""
    with reserved(HOST, 0) as held:
        yield held.getsockname()[1]


def app(word: str, begun: threading.Event | None = None, seconds: float = 0.0) -> Any:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if begun:
            begun.set()
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": word.encode()})

    return answer


def asked(port: int) -> str:
    connection = HTTPConnection(HOST, port, timeout=10)
    connection.request("GET", "/")
    return connection.getresponse().read().decode()


def test_all_who_share_a_port_get_connections(port: int) -> None:
    both = [Listener(app(word), HOST, port, 5.0) for word in ("one", "two")]
    try:
        assert {asked(port) for _ in range(64)} == {"one", "two"}  # by chance one alone: 2 of 2**64
        both[0].close()
        assert {asked(port) for _ in range(8)} == {"two"}
        assert [one.listens() for one in both] == [False, True]
    finally:
        for one in both:
            one.close()


def test_what_is_being_answered_when_it_ends_is_answered(port: int) -> None:
    begun, said = threading.Event(), list[str]()
    listener = Listener(app("late", begun, 0.5), HOST, port, 5.0)
    caller = threading.Thread(target=lambda: said.append(asked(port)))
    caller.start()
    assert begun.wait(10)
    listener.close()
    caller.join(10)
    assert said == ["late"]
    with pytest.raises(ConnectionRefusedError):
        asked(port)


def test_a_port_that_another_holds_alone_is_one_line() -> None:
    with socket.create_server((HOST, 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(BusyError, match=rf"--port: {HOST}:{port} cannot be had: .*; choose another"):
            Listener(app(""), HOST, port, 5.0)


def test_who_reserves_a_port_shares_it_with_listeners_alone(port: int) -> None:
    with pytest.raises(BusyError, match="cannot be had"):
        reserved(HOST, port)
    with pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, port))


def test_a_port_whose_last_connections_are_still_closing_is_had_again() -> None:
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection((HOST, port)) as caller:
            server.accept()[0].close()  # who closes first waits for a minute
            caller.recv(1)
    with pytest.raises(OSError, match="in use"), socket.socket() as plain:
        plain.bind((HOST, port))
    with reserved(HOST, port):
        pass
