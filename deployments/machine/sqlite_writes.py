"""Writers of Prefect's SQLite file wait for their turn.

Prefect begins a transaction that will write as one that reads. Where another has written meanwhile, SQLite refuses it
at once, whatever the time-out: "database is locked". Prefect answers such a request with 503, which its own clients
repeat and its pages do not, and an event that an automation counts is lost. Here it takes the lock when it begins,
and whoever comes second waits for up to Prefect's 60 s.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_PREFECTS = AioSqliteConfiguration.begin_transaction


def wait_to_write() -> None:
    """Make every transaction that this process begins on SQLite take the lock of writers first."""
    AioSqliteConfiguration.begin_transaction = _begin  # type: ignore[method-assign]


@asynccontextmanager
async def _begin(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = True
) -> AsyncGenerator[AsyncSessionTransaction, None]:
    """Begin as one that writes; `with_for_update` is Prefect's wish, and every transaction's here."""
    async with _PREFECTS(self, session, with_for_update=True) as transaction:
        yield transaction
