"""Work places in buckets of their own, with short pauses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ftlib.storage import claims, patience
from tests.ftlib.storage.fault_proxy import FaultProxy


@pytest.fixture
def place(bucket: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a work place that nobody has used."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("REGLAGE_CACHE", "")
    monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.5)
    monkeypatch.setattr(claims, "SECONDS_BETWEEN_BEATS", 0.1)
    monkeypatch.setattr(claims, "PATIENCE", 1.0)
    monkeypatch.setattr(claims, "FIRST_LOOK", 0.05)
    monkeypatch.setattr(claims, "SECONDS_BETWEEN_LOOKS", 0.1)
    return f"s3://{bucket.name}/work"


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy
