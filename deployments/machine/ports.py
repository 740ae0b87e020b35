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


def listen(asked: int | None, before: int | None = None, first: int = SERVER) -> socket.socket:
    """Return a socket that listens on `asked`, or else on `before`, or else on the first free port from `first` on.

    The one who listens has the port: between looking and starting a server, another could take it. Raises BusyError
    for an asked port that is held, naming the holder; RecipeError for one that is no port; StorageError for one that
    this user may not have.
    """
    if asked is not None:
        if not 1 <= asked <= 65535:
            raise RecipeError(f"--port: got {asked}, allowed are 1 to 65535")
        try:
            return _listen(asked)
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
            return _listen(port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise BusyError(f"no free port between {first} and {first + _TRIES}; give one by --port")


def _listen(port: int) -> socket.socket:
    """Listen on one port; SO_REUSEADDR, which Python sets, only passes over what the last holder left closing."""
    return socket.create_server((HOST, port), backlog=128)
