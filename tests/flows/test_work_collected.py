"""Whole runs in one work folder: what a collection leaves of rows that were deleted, and of a champion's snapshot."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.retraining.challenge import Challenge
from flows.retraining.fresh_data import Listing
from flows.run.record import RunRecord
from flows.run.steps import inputs, steps
from ftlib.errors import StorageError
from ftlib.published.work_roots import collect_work
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.report import Report
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
    RunRecord(evidence=evidence, steps=(), report=page, result=result, versions={}).write(work)
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
    collect_work(work, ALL, delete=True)
    left = holding(work.root, SECRET)
    assert left
    assert all(place.startswith(("stages/ingest/", "stages/preprocess/")) for place in left)
    registry.promote(registry_name, "champion", second, 1, "ann", "without the row")
    done = collect_work(work, ALL, delete=True)
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
        collect_work(Workspace(tmp_path / "work"), ALL, delete=True)
    assert collect_work(Workspace(tmp_path / "work"), ALL, ignore=[gone]).garbage == ()
    record.write_text("{")
    with pytest.raises(StorageError, match=r"run\.json is damaged"):
        collect_work(Workspace(tmp_path / "work"), ALL)


def noted(work: Path, to: Path, recipe: Path, *, result: dict[str, object] | None = None) -> None:
    """Write what a `retrain` leaves that published to a registry, or a `run` that was refused by a gate."""
    r = load_recipe(recipe, [f"publish.to.path={to}"])
    if result is not None:
        record = {"evidence": {"recipe": r.model_dump(mode="json")}, "result": result}
        (folder := work / "runs" / "tickets").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        return
    version = ModelVersion(
        name=r.publish.name, version=1, registry=str(to), manifest="0" * 64, created=True, logit_difference=0.0
    )
    Challenge(recipe=r, what="promoted", reasons=(), listing=Listing(seen={}), version=version).write(Workspace(work))


def test_a_first_run_that_was_refused_leaves_nothing_to_look_up(tmp_path: Path) -> None:
    work = tmp_path / "elsewhere" / "work"
    (work / "stages").mkdir(parents=True)
    noted(work, Path("registry"), tiny_recipe(tmp_path), result={"reasons": ["accuracy 0.1, at least 0.9"]})
    assert collect_work(Workspace(work), ALL).garbage == ()
    (tmp_path / "elsewhere" / "registry").mkdir()
    (tmp_path / "elsewhere" / "registry" / "registry.json").write_text('{"format": 99}')
    with pytest.raises(StorageError, match="other bytes than were written"):  # one is there: it is asked
        collect_work(Workspace(work), ALL)


def test_every_registry_that_a_recipe_published_to_is_asked_not_only_the_last(tmp_path: Path) -> None:
    (tmp_path / "work" / "stages").mkdir(parents=True)
    work = tmp_path / "work"
    recipe = tiny_recipe(tmp_path)
    noted(work, tmp_path / "production", recipe)
    noted(work, tmp_path / "staging", recipe)
    noted(work, tmp_path / "staging", recipe)
    noted(work, tmp_path / "staging", recipe, result={"reasons": []})
    assert len([*(work / "runs" / load_recipe(recipe).name / "published").iterdir()]) == 2
    with pytest.raises(StorageError, match=r"no registry at .*/production.*ignore_registries"):
        collect_work(Workspace(tmp_path / "work"), ALL, ignore=[str(tmp_path / "staging")])
    assert collect_work(
        Workspace(tmp_path / "work"), ALL, ignore=[str(tmp_path / n) for n in ("staging", "production")]
    )


def test_a_run_notes_where_it_published(tmp_path: Path) -> None:
    r = load_recipe(tiny_recipe(tmp_path))
    (tmp_path / "report.html").write_text("<p></p>")
    version = ModelVersion(
        name="m", version=1, registry="/srv/registry", manifest="0" * 64, created=True, logit_difference=0.0
    )
    page = Report.model_construct(uri=str(tmp_path), html="report.html")
    evidence = Evidence.model_construct(recipe=r)
    for result in (version, Refusal(reasons=("no",))):
        record = RunRecord.model_construct(evidence=evidence, steps=(), report=page, result=result, versions={})
        record.write(Workspace(tmp_path))
    (place,) = (tmp_path / "runs" / r.name / "published").iterdir()
    assert json.loads(place.read_bytes()) == {"uri": "/srv/registry", "endpoint_url": None, "model": "m"}


def test_the_search_sees_what_is_packed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"a {SECRET}"] * 100}), tmp_path / "a.parquet", compression="zstd")
    assert holding(tmp_path, SECRET) == ["a.parquet"]
