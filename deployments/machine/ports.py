"""Ports of the loopback: the one asked for, the one had before, or the next that is free."""

from __future__ import annotations

import errno
import socket

from deployments.machine.processes import holder
from ftlib.errors import BusyError, RecipeError, StorageError

HOST = "127.0.0.1"
SERVER = 4200
TENSORBOARD = 6006
_TRIES = 200


def listen(asked: int | None, before: int | None = None, first: int = SERVER, host: str = HOST) -> socket.socket:
    """Return a socket that listens on `asked`, or else on `before`, or else on the first free port from `first` on.

    The one who listens has the port: between looking and starting a server, another could take it. Raises BusyError
    for an asked port that is held, naming the holder; RecipeError for one that is no port, or a host that is no address
    of this machine; StorageError for one that this user may not have.
    """
    try:
        return _first_free(asked, before, first, host)
    except OSError as error:
        if error.errno is None or (error.errno != errno.EADDRNOTAVAIL and error.errno >= 0):
            raise  # names that mean nothing have negative numbers (getaddrinfo's)
        raise RecipeError(
            f"--host: {host!r} is no address of this machine; give one that is, or 0.0.0.0 for all of them"
        ) from None


def _first_free(asked: int | None, before: int | None, first: int, host: str) -> socket.socket:
    """Listen as `listen` says. Raises what it raises, and OSError for a host that is none."""
    if asked is not None:
        if not 1 <= asked <= 65535:
            raise RecipeError(f"--port: got {asked}, allowed are 1 to 65535")
        try:
            return _listen(asked, host)
        except PermissionError:
            raise StorageError(f"--port: this user may not listen on {asked}; choose one above 1023") from None
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise BusyError(
                f"--port: {asked} is held by {holder(asked)}; stop that, or leave --port out for a free one"
            ) from None
    for port in (*([before] if before else []), *range(first, first + _TRIES)):
        try:
            return _listen(port, host)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise BusyError(f"no free port between {first} and {first + _TRIES}; give one by --port")


def _listen(port: int, host: str) -> socket.socket:
    """Listen on one port; SO_REUSEADDR, which Python sets, only passes over what the last holder left closing."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=128)
