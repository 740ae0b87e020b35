"""s3fs with one attempt for each request, and its answer as it came."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from ftlib.storage.patience import close_on
from ftlib.storage.place import check_no_secret

T = TypeVar("T")


def open_once(endpoint_url: str | None, read_timeout: float, connections: int) -> Any:
    """Return a filesystem of our own, connected as far as its credentials. Raises what botocore raises.

    Credentials, connections and loop are s3fs's, without its loop of five attempts around each of botocore's.
    """
    from fsspec.asyn import get_loop, sync
    from s3fs import S3FileSystem

    filesystem: Any = S3FileSystem(
        endpoint_url=endpoint_url,
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": 1},
            "connect_timeout": 5,
            "read_timeout": read_timeout,
            "max_pool_connections": connections,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        use_listings_cache=False,
        skip_instance_cache=True,
        asynchronous=True,  # else a forked child waits at its end for a loop that runs in its parent alone
    )
    loop = get_loop()
    check_no_secret(sync(loop, filesystem.set_session).meta.endpoint_url)
    weakref.finalize(filesystem, _close, filesystem._s3creator, loop, os.getpid())
    return filesystem


def ask(filesystem: Any, request: Callable[[Any], Awaitable[T]]) -> T:
    """Have aiobotocore's client, which s3fs made, send a request, and wait for what comes of it."""
    from fsspec.asyn import get_loop, sync

    async def asked() -> T:
        return await request(await filesystem.set_session())

    return cast(T, sync(get_loop(), asked))


def _close(client: Any, loop: asyncio.AbstractEventLoop, process: int) -> None:
    if process == os.getpid():
        close_on(loop, lambda: client.__aexit__(None, None, None))
