"""Prefect's server on a socket that listens already: its descriptor stands in `SOCKET`.

`prefect server start` binds the port itself, seconds after one has looked whether it is free. Here the supervisor holds
it, also while a server that died is started again: who calls meanwhile waits instead of being refused.
"""

import os
import socket

SOCKET = "LISTENING_SOCKET"
"""The variable that holds the number of the socket's descriptor, which the server inherits."""


def serve(descriptor: int) -> None:
    """Serve API and pages until SIGTERM or SIGINT."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    from deployments.machine.sqlite_writes import wait_to_write

    wait_to_write()
    api = get_current_settings().server.api
    config = uvicorn.Config(
        create_app(final=True),
        log_level="warning",
        timeout_keep_alive=api.keepalive_timeout,
        timeout_graceful_shutdown=3,  # an open page holds a web socket for as long as it is open
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


if __name__ == "__main__":
    serve(int(os.environ.pop(SOCKET)))
