"""A replica that takes its requests from the network itself: no proxy stands between, and copies what passes."""

from __future__ import annotations

import socket
import threading
from typing import Any

import uvicorn

from ftlib.errors import BusyError

_BACKLOG = 1024
"""Connections that wait to be taken."""


class Listener:
    """Speaks HTTP on a port that the replicas of a machine share: the system hands each connection to one of them."""

    def __init__(self, app: Any, host: str, port: int, stop_seconds: float) -> None:
        """Listen, and let an ASGI application answer in an event loop of its own. Raises BusyError for a taken port."""
        settings = uvicorn.Config(
            app,
            interface="asgi3",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=max(int(stop_seconds), 1),
        )
        self._server = uvicorn.Server(settings)
        self._seconds = stop_seconds
        listening = _shared(host, port)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [listening]}, name="reglage-http", daemon=True
        )
        self._thread.start()

    def listens(self) -> bool:
        """Say whether it goes on."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Take no new connection, answer the requests that are here, and end."""
        self._server.should_exit = True
        self._thread.join(self._seconds)


def reserved(host: str, port: int) -> socket.socket:
    """Hold a port for listeners of this user, without listening: no other server is given it, nor is half of ours.

    Raises BusyError for a taken port.
    """
    held = _bound(host, port, socket.SO_REUSEADDR)  # passes over what the last holder left closing
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # from now on: two that reserve it do not share it
    return held


def _shared(host: str, port: int) -> socket.socket:
    """Return a socket that listens on a port which other processes of this user may share."""
    listening = _bound(host, port, socket.SO_REUSEADDR, socket.SO_REUSEPORT)
    listening.listen(_BACKLOG)
    return listening


def _bound(host: str, port: int, *options: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    for option in options:
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise BusyError(f"--port: {host}:{port} cannot be had: {error.strerror}; choose another") from error
    return bound
