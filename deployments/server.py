"""The Prefect server that deployments stand on, and what it says in one line."""

from collections.abc import Generator
from contextlib import contextmanager

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectException

from flows.prefect_server import check_user_server, user_has_server
from ftlib.errors import StorageError, TransientError, first_line

NO_SERVER = (
    "there is no Prefect server to deploy to; start one with `reglage up`, or set PREFECT_API_URL to that of a server"
)


@contextmanager
def connected() -> Generator[SyncPrefectClient]:
    """Yield a client of the user's server. Raises StorageError where there is none, or it refuses what it is asked."""
    if not user_has_server():
        raise StorageError(NO_SERVER)
    check_user_server()
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.HTTPStatusError as error:
        raise StorageError(f"the Prefect server refused: {_detail(error.response)}") from error
    except httpx.HTTPError as error:
        raise TransientError(
            f"the Prefect server went away ({first_line(error)}); start it and run this again"
        ) from error
    except PrefectException as error:
        raise StorageError(f"the Prefect server refused: {first_line(error)}") from error


def _detail(response: httpx.Response) -> str:
    """Return what a server says of a request that it refuses, in one line."""
    try:
        said = response.json().get("detail") or response.json().get("exception_detail")
    except (ValueError, AttributeError):
        said = None
    return f"{response.status_code} for {response.request.url.path}{f': {said}' if said else ''}"
