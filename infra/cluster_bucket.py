"""The bucket of `infra.cluster`: moto, in memory, one request at a time, on two sockets.

    python infra/cluster_bucket.py NAMESPACE PORT      # prints the port on the host's loopback

One socket is on the host's loopback, which stays; the other is in the bucket's own network, which can be cut.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

_CLONE_NEWNET = 0x40000000


def main(namespace: str, port: str) -> None:
    """Serve until this process is ended."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto, one_at_a_time = DomainDispatcherApplication(create_backend_app), threading.Lock()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        with one_at_a_time:  # moto looks before it writes
            return list(moto(environ, start_response))

    here = _serve(app, "127.0.0.1", 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(os.open(f"/run/netns/{namespace}", os.O_RDONLY), _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    _serve(app, "0.0.0.0", int(port))
    print(here, flush=True)
    threading.Event().wait()


def _serve(app: Callable[..., Any], address: str, port: int) -> int:
    server = make_server(address, port, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


if __name__ == "__main__":
    main(*sys.argv[1:])
