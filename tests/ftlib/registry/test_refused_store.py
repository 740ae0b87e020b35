"""Servers that ignore conditions: a stub, and a real one (`infra/radosgw.py --backend dbstore pytest`, test-s3)."""

import os

import pytest

from ftlib.errors import StorageError
from ftlib.registry import probe
from ftlib.storage import Place, S3Store, open_store
from tests.ftlib.registry.kit import publish
from tests.ftlib.storage.gcs_server import GcsServer

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


def test_a_stand_in_for_gcs_that_ignores_preconditions_is_refused(gcs: GcsServer, tmp_path):
    """As the emulators do that people run: each of two creates of one object gets a 200."""
    store = open_store(Place.parse("gs://rows/registry"))
    probe(store)
    gcs.ignores_conditions = True
    assert store.create("a", b"first")
    assert store.create("a", b"second")
    with pytest.raises(StorageError, match=r"let \d+ of 16 writers create the same object"):
        probe(store)
    with pytest.raises(StorageError, match="or a folder"):
        publish(store, tmp_path, "k", {"a": "x"})
    assert store.list("models") == []
