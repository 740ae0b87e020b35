"""The places a registry can be in, for every test below."""

from pathlib import Path

import pytest

from ftlib.storage import LocalStore, Store
from tests.ftlib.conftest import bucket_store


@pytest.fixture(
    params=["local", "s3", pytest.param("gs", marks=pytest.mark.slow), pytest.param("abfs", marks=pytest.mark.slow)]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return LocalStore(tmp_path / "store") if request.param == "local" else bucket_store(request.param, request)
