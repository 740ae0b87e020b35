"""A work place on GCS and on Azure: what a stage makes there, another machine finds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftlib.storage.node_cache import local_path
from ftlib.workspace import Workspace
from tests.ftlib.conftest import bucket_place
from tests.ftlib.workspace.kit import FILES, Made, Stage, build, files_in


def at(place: str, cache: Path) -> Workspace:
    """The place as a machine sees it whose cache this is."""
    os.environ["REGLAGE_CACHE"] = str(cache)
    return Workspace(place)


@pytest.mark.parametrize("kind", ["gs", pytest.param("abfs", marks=pytest.mark.slow)])
def test_what_one_machine_makes_and_shares_another_finds(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGLAGE_CACHE", "")
    place = bucket_place(kind, request, "work").uri
    work = at(place, tmp_path / "a")
    made = work.once(Stage(), Made, build)
    assert made.uri == f"{place}/stages/stage/{Stage().fingerprint}"
    (work.root / "outcomes").mkdir()
    (work.root / "outcomes" / "ab").write_text("table")
    work.share("outcomes/ab")
    work = at(place, tmp_path / "b")
    assert work.once(Stage(), Made, lambda _: pytest.fail("it is there")) == made
    assert files_in(local_path(made.uri)) == FILES
    assert work.names("outcomes") == ["ab"]
    assert work.shared("outcomes/ab").read_text() == "table"
