"""A real server that ignores conditions: `infra/radosgw.py --backend dbstore pytest ...` (make test-s3)."""

import os

import pytest

from ftlib.errors import StorageError
from ftlib.registry import probe
from ftlib.storage import S3Store
from tests.ftlib.registry.kit import publish

SERVERS = [name for name in [os.environ.get("S3_SERVER", "")] if name.endswith("on dbstore")]


@pytest.mark.slow
@pytest.mark.parametrize("server", SERVERS)
def test_radosgw_on_sqlite_is_refused(s3_store: S3Store, tmp_path, server: str):
    assert s3_store.create("a", b"first")
    assert s3_store.create("a", b"second")  # what is wrong with it
    with pytest.raises(StorageError, match=r"let \d+ of 16 writers create the same object"):
        probe(s3_store)
    with pytest.raises(StorageError, match="use a store that honours If-None-Match, or a folder"):
        publish(s3_store, tmp_path, "k", {"a": "x"})
    assert s3_store.list("models") == []
