"""The places a registry can be in, for every test below."""

from pathlib import Path

import pytest

from ftlib.storage import LocalStore, Store


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3_store")
