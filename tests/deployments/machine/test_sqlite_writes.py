"""Two requests that write at once: each waits for its turn, and none is answered 503."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from prefect.server.database.configurations import AioSqliteConfiguration

from deployments.machine.sqlite_writes import wait_to_write


async def two_writers(database: Path) -> int:
    """Read and then write in two transactions that overlap; return the sum that they leave."""
    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{database}")
    engine = await config.engine()
    async with await config.session(engine) as session, config.begin_transaction(session, with_for_update=True):
        await session.execute(sa.text("create table counts (n integer)"))
        await session.execute(sa.text("insert into counts values (0)"))

    async def add() -> None:
        async with await config.session(engine) as session, config.begin_transaction(session):
            before = (await session.execute(sa.text("select n from counts"))).scalar_one()
            await asyncio.sleep(0.2)  # both have read by now, if they may
            await session.execute(sa.text("update counts set n = :n"), {"n": before + 1})

    try:
        await asyncio.gather(add(), add())
        async with await config.session(engine) as session:
            return (await session.execute(sa.text("select n from counts"))).scalar_one()
    finally:
        await engine.dispose()


def test_writers_wait_for_their_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(sa.exc.OperationalError, match="database is locked"):
        asyncio.run(two_writers(tmp_path / "prefects.db"))
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    wait_to_write()
    assert asyncio.run(two_writers(tmp_path / "ours.db")) == 2
