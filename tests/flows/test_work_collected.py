"""Whole runs in one work folder: what a collection leaves of rows that were deleted, and of a champion's snapshot."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.run_record import RunRecord
from flows.steps import inputs, steps
from ftlib.errors import StorageError
from ftlib.published.work_roots import collect_work
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.step import walk
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl
from ftlib.work_collection import WorkCollector, WorkPolicy
from ftlib.workspace import Workspace, leave

SECRET = "zanzibar"
ALL = WorkPolicy(keep_days=0.0)


def run(recipe: Path, work: Workspace) -> int:
    """Run a recipe as `reglage run` does, but for Prefect; return the version's number."""
    r = load_recipe(recipe)
    outcome = walk(steps(r, work, inputs(r, work)), lambda one: one.stage(one.job, work))
    assert outcome is not None
    evidence, page, result = outcome
    assert isinstance(result, ModelVersion)
    RunRecord(evidence=evidence, steps=(), report=page, result=result, versions={}).write(work.root / "runs" / r.name)
    leave(work.root)
    return result.version


def holding(folder: Path, text: str) -> list[str]:
    """Return the files that hold a text, packed in a parquet file or not."""
    found: list[str] = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        plain = text.encode() in path.read_bytes()
        packed = path.suffix == ".parquet" and text in str(pq.read_table(path).to_pydict())
        if plain or packed:
            found.append(path.relative_to(folder).as_posix())
    return found


@pytest.mark.slow
def test_after_a_deletion_no_file_holds_the_rows_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    recipe.write_text(recipe.read_text().replace("  home:\n    source", "  home:\n    key: id\n    source"))
    rows = [{"id": n, **row} for n, row in enumerate(tiny_rows(120))]
    rows[17]["text"] += f" {SECRET}"
    write_jsonl(tmp_path / "home.jsonl", rows)
    registry = ModelRegistry(load_recipe(recipe).publish.to.store())
    registry_name = load_recipe(recipe).publish.name
    registry.promote(registry_name, "champion", run(recipe, work), None, "ann", "first")
    assert any(place.startswith("stages/ingest/") for place in holding(work.root, SECRET))
    (tmp_path / "home-2.jsonl").write_text(json.dumps({"id": 17, "_deleted": True}) + "\n")
    recipe.write_text(recipe.read_text().replace("/home.jsonl", "/home*.jsonl"))  # both files
    second = run(recipe, work)

    def later() -> float:
        return time.time() + 7200

    # Its snapshot is kept while a champion was trained on it: of that version it can be asked what it was made from.
    monkeypatch.setattr("ftlib.published.work_roots.WorkCollector", lambda *words: WorkCollector(*words, clock=later))
    collect_work(work.root, ALL, delete=True)
    left = holding(work.root, SECRET)
    assert left
    assert all(place.startswith(("stages/ingest/", "stages/preprocess/")) for place in left)
    registry.promote(registry_name, "champion", second, 1, "ann", "without the row")
    done = collect_work(work.root, ALL, delete=True)
    assert {item.stage for item in done.garbage} >= {"ingest", "preprocess"}
    assert holding(work.root, SECRET) == []
    assert holding(tmp_path, SECRET) == ["home.jsonl"]  # the source itself is its owner's
    # What is left is enough: the same run finds all of it done.
    made = {path: path.stat().st_mtime_ns for path in (work.root / "stages").glob("*/*/artifact.json")}
    assert run(recipe, work) == second
    assert {path: path.stat().st_mtime_ns for path in (work.root / "stages").glob("*/*/artifact.json")} == made


def test_a_registry_that_is_gone_stops_a_collection_unless_it_is_gone_for_good(tmp_path: Path) -> None:
    (tmp_path / "work" / "stages").mkdir(parents=True)
    record = tmp_path / "work" / "runs" / "tickets" / "run.json"
    record.parent.mkdir(parents=True)
    to = {"kind": "folder", "path": "registry"}
    recipe = {"publish": {"name": "m", "to": to}}
    gone = str(tmp_path / "gone")
    record.write_text(json.dumps({"evidence": {"recipe": recipe}, "result": {"registry": gone}}))
    with pytest.raises(StorageError, match=rf"no registry at {gone}.*run of tickets .* --ignore-registry {gone}"):
        collect_work(tmp_path / "work", ALL, delete=True)
    assert collect_work(tmp_path / "work", ALL, ignore=[gone]).garbage == ()
    record.write_text("{")
    with pytest.raises(StorageError, match=r"run\.json is damaged"):
        collect_work(tmp_path / "work", ALL)


def test_the_search_sees_what_is_packed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"a {SECRET}"] * 100}), tmp_path / "a.parquet", compression="zstd")
    assert holding(tmp_path, SECRET) == ["a.parquet"]
