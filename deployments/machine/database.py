"""The database behind Prefect's server: asked before anything starts, so that a wrong URL is one line at once."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import urlsplit

from ftlib.errors import RecipeError, StorageError, first_line
from ftlib.urls import redacted

SQLITE = "sqlite"
_OLDEST = 14
_SECONDS = 15
_FORM = "a URL postgresql+asyncpg://HOST:PORT/NAME, with user and password before the host,"


def database_url(told: str | None) -> str | None:
    """Return PostgreSQL's URL as Prefect wants it, or None for SQLite. Raises RecipeError for anything else."""
    if told is None or told == SQLITE:
        return None
    url = re.sub(r"^postgres(ql)?(\+asyncpg)?://", "postgresql+asyncpg://", told)
    try:
        parts = urlsplit(url)
        usable = parts.scheme == "postgresql+asyncpg" and len(parts.path) > 1 and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise RecipeError(f"--database: got {redacted(told)}, allowed are {_FORM} and `{SQLITE}`")
    return url


def check_database(url: str | None) -> None:
    """Connect to a PostgreSQL once. Raises StorageError, without the password, where Prefect could not use it."""
    if url is not None:
        asyncio.run(_check(url))


async def _check(url: str) -> None:
    """Connect, and look at the version and at what the user may do."""
    import asyncpg

    shown = redacted(url)
    try:
        connection = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=_SECONDS)
    except asyncpg.InvalidCatalogNameError as error:
        raise StorageError(
            f"--database: {shown}: {first_line(error)}; make it: createdb, with that user as owner"
        ) from error
    except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
        raise StorageError(f"--database: {shown}: {first_line(error)}; correct user and password") from error
    except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
        trouble = f"no answer within {_SECONDS} s" if isinstance(error, TimeoutError) else first_line(error)
        raise StorageError(f"--database: {shown}: {trouble}; start it, or correct the URL") from error
    try:
        if (major := connection.get_server_version().major) < _OLDEST:
            raise StorageError(f"--database: {shown} is PostgreSQL {major}; Prefect needs {_OLDEST} or newer")
        if not await connection.fetchval("select has_schema_privilege('public', 'CREATE')"):
            raise StorageError(
                f"--database: {shown}: the user may make no tables in its schema public; make it the database's owner"
            )
    finally:
        await connection.close()
