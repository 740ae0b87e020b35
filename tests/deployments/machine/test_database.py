import socket

import pytest

from deployments.machine.database import check_database, database_url
from ftlib.errors import RecipeError, StorageError


@pytest.mark.parametrize("told", ["postgresql+asyncpg://u:p@h:5/n", "postgresql://u:p@h:5/n", "postgres://u:p@h:5/n"])
def test_every_way_to_write_postgresql_is_the_one_that_prefect_takes(told: str):
    assert database_url(told) == "postgresql+asyncpg://u:p@h:5/n"


def test_sqlite_is_no_url():
    assert database_url(None) is None
    assert database_url("sqlite") is None


@pytest.mark.parametrize(
    "told", ["mysql://u:secret@h/n", "postgresql://u:secret@h", "postgresql://u:secret@h:port/n", "", "sqlite:///x.db"]
)
def test_anything_else_is_refused_without_its_password(told: str):
    with pytest.raises(RecipeError, match=r"--database: got .*allowed are .*postgresql.* and `sqlite`") as caught:
        database_url(told)
    assert "secret" not in str(caught.value)


def test_nobody_there_is_one_line_without_the_password():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(StorageError, match=rf"127\.0\.0\.1:{port}/n: .*; start it, or correct the URL") as caught:
        check_database(f"postgresql+asyncpg://u:secret@127.0.0.1:{port}/n")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
