"""Rows that are forgotten: found wherever they left a trace, cleared whole, and never ingested again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ftlib.data.forgotten import digest_of_key, excluded, read_requests
from ftlib.data.limits import Limits
from ftlib.data.snapshot import read_snapshot
from ftlib.data.sources.feedback import Feedback
from ftlib.data.sources.files import Files
from ftlib.errors import BusyError, RecipeError, StorageError
from ftlib.published import erasure as module
from ftlib.published.erasure import Eraser, check_done
from ftlib.published.row_search import Holding, Holdings
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.testing import write_jsonl
from ftlib.workspace import Workspace, exclusive, leave

SECRET = "Zanzibar is where Ann Example spends her evenings"
ROWS = [{"id": n, "text": f"row number {n} says nothing of anybody", "label": "a"} for n in range(20)]
ROWS[7]["text"] = SECRET


class Place:
    """A work folder with a snapshot, and what a run makes of it."""

    def __init__(self, folder: Path) -> None:
        self.source = write_jsonl(folder / "rows.jsonl", ROWS)
        self.work = Workspace(folder / "work")
        self.cache = folder / "cache"
        raw = self.ingest()
        self.ids = {values["id"]: row_id for row_id, values in read_snapshot(raw.path / "rows.parquet")}
        leave(self.work.root)
        self.snapshot = raw.path
        self.outcomes = self.file("outcomes/aa.parquet", None)
        parquet.write_table(pa.table({"row_id": [self.ids[3], f"{self.ids[7]}-1"], "nll": [0.1, 0.2]}), self.outcomes)
        self.others = self.file("outcomes/bb.parquet", None)
        parquet.write_table(pa.table({"row_id": [self.ids[3]], "nll": [0.1]}), self.others)
        self.prepared = self.file("stages/preprocess/00000000000000aa/artifact.json", "{}").parent
        with pa.ipc.new_file(str(self.prepared / "train.arrow"), pa.schema([("row_id", pa.string())])) as writer:
            writer.write_batch(pa.record_batch({"row_id": [self.ids[7]]}))
        self.kept = self.file("stages/preprocess/00000000000000bb/artifact.json", "{}").parent
        self.page = self.file("runs/tickets/report.html", f"<p>{SECRET} &amp; more</p>")
        self.log = self.file("runs/tickets/run.log", f"read row {self.ids[7]}")
        self.plain = self.file("runs/other/report.html", "<p>nothing of her</p>")
        self.model = self.file("stages/train/00000000000000cc/model.safetensors", SECRET).parent
        self.half = self.file("stages/ingest/00000000000000dd.work/rows.spool", "?").parent
        self.pulled = self.cache / "versions" / "0123"
        (self.pulled / "lineage" / "home").mkdir(parents=True)
        (self.pulled / "lineage" / "home" / "train.rows").write_bytes(bytes.fromhex(self.ids[7]))

    def file(self, path: str, text: str | None) -> Path:
        target = self.work.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            target.write_text(text)
        return target

    @property
    def traces(self) -> list[Path]:
        return [self.snapshot, self.outcomes, self.prepared, self.page, self.log, self.half, self.pulled]

    def job(self) -> IngestJob:
        source = Files(path=str(self.source))
        return IngestJob(
            name="home", source=source, files=source.pin(), limits=Limits(rows=1), key="id",
            excluded=excluded(read_requests(self.work), "home"),
        )  # fmt: skip

    def ingest(self) -> Any:
        return ingest(self.job(), self.work)

    def eraser(self, *keys: str, **fields: Any) -> Eraser:
        return Eraser(self.work.root, keys or ("7",), cache=self.cache, by="a test", **fields)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_without_delete_everything_is_named_and_nothing_is_written(place: Place):
    before = {path: path.stat().st_mtime_ns for path in place.work.root.rglob("*")}
    found = place.eraser().erase()
    named = {place.work.root / trace.path for trace in found.traces}
    assert named == {*place.traces}
    assert (found.rows, found.keys, found.absent, found.acted) == (1, 1, (), False)
    assert {path: path.stat().st_mtime_ns for path in place.work.root.rglob("*")} == before


def test_every_trace_goes_and_what_has_none_stays(place: Place):
    done = place.eraser().erase(delete=True)
    assert done.acted
    assert not [path for path in place.traces if path.exists()]
    assert all(path.exists() for path in (place.others, place.kept, place.plain, place.model))
    certificate = json.loads(Path(str(done.certificate)).read_text())
    assert certificate["by"] == "a test"
    assert certificate["keys"] == [digest_of_key(7)]
    assert {one["path"] for one in certificate["cleared"]} == {trace.path for trace in done.traces}
    assert any("sources" in line for line in certificate["not_cleared"])
    assert '"7"' not in Path(str(done.certificate)).read_text()


def test_a_later_ingestion_of_the_same_source_leaves_the_row_out_and_says_so(place: Place):
    before = place.job().fingerprint
    place.eraser().erase(delete=True)
    assert place.job().fingerprint != before
    raw = place.ingest()
    assert raw.ledger.dropped == {"forgotten": 1}
    assert raw.ledger.kept == 19
    assert not [values for _, values in read_snapshot(raw.path / "rows.parquet") if values["id"] == 7]
    again = place.eraser().erase()
    assert (again.traces, again.absent) == ((), ())  # asked before, so it is not called absent


def test_twice_is_once_and_a_key_that_is_nowhere_is_on_the_list_all_the_same(place: Place):
    place.eraser().erase(delete=True)
    second = place.eraser().erase(delete=True)
    assert (second.acted, second.traces) == (True, ())
    nowhere = place.eraser("4711").erase(delete=True)
    assert (nowhere.absent, nowhere.rows, nowhere.traces) == (("4711",), 0, ())
    assert digest_of_key("4711") in excluded(read_requests(place.work), "home")


def test_nothing_goes_while_a_run_is_in_the_folder_but_no_new_ingestion_takes_the_row(place: Place):
    code = (
        "import sys; from pathlib import Path; from ftlib.workspace import enter; enter(Path(sys.argv[1])); "
        "print('in', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(place.work.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout
        assert running.stdout.readline() == "in\n"
        asked = place.eraser().erase(delete=True)
        assert not asked.acted
        assert str(running.pid) in asked.in_use[0]
        assert all(path.exists() for path in place.traces)
        with pytest.raises(BusyError, match=rf"in use by .*-{running.pid}: .* run it again when that has ended"):
            check_done(asked)
        assert excluded(read_requests(place.work), "home")
        running.communicate("")
    assert place.eraser().erase(delete=True).acted
    assert not [path for path in place.traces if path.exists()]


@pytest.mark.parametrize("after", [pytest.param(n, marks=[] if n == 3 else pytest.mark.slow) for n in range(7)])
def test_killed_anywhere_it_is_finished_by_another(place: Place, monkeypatch: pytest.MonkeyPatch, after: int):
    left = iter(range(after))

    class Killed(BaseException):
        pass

    original, tree = module.discard, module.shutil.rmtree

    def dies(path: Path) -> None:
        if next(left, None) is None:
            raise Killed
        (tree if path.parent.parent.name == "stages" else original)(path)

    monkeypatch.setattr(module, "discard", dies)
    monkeypatch.setattr(module.shutil, "rmtree", dies)
    with pytest.raises(Killed):
        place.eraser().erase(delete=True)
    monkeypatch.undo()
    assert place.snapshot.exists()  # by it the rest is found; it goes last
    assert place.eraser().erase(delete=True).acted
    assert not [path for path in place.traces if path.exists()]


def test_two_at_once_are_one_and_a_line(place: Place):
    lock = place.work.root / "forgotten" / "forget.lock"
    with exclusive(lock, wait=False), pytest.raises(BusyError, match="forget is already running"):
        place.eraser().erase(delete=True)


def test_a_quarantined_row_is_found_by_its_key_and_spellings_of_a_key_are_one(place: Place, tmp_path: Path):
    (tmp_path / "other").mkdir()
    bad = Place(tmp_path / "other")
    write_jsonl(bad.source, [*ROWS, {"id": "K-1", "text": None, "label": ["x"]}])
    job = bad.job().model_copy(update={"columns": {}, "limits": Limits(rows=1, bad_rows=0.5)})
    job = IngestJob.model_validate({**job.model_dump(), "columns": {"text": {"type": "string"}}})
    raw = ingest(job, bad.work)
    leave(bad.work.root)
    found = bad.eraser(" K-1 ").erase()
    assert [trace.path for trace in found.traces if trace.kind == "snapshot"] == [
        raw.path.relative_to(bad.work.root).as_posix()
    ]
    assert place.eraser("7.0").erase().rows == 1  # as pandas writes a key


@pytest.mark.slow
def test_a_huge_list_of_keys_is_looked_for_in_one_pass(place: Place):
    began = time.process_time()
    found = place.eraser(*map(str, range(7, 50_007))).erase()
    assert found.rows == 13
    assert len(found.absent) == 50_007 - 20
    assert time.process_time() - began < 5.0


def test_bad_input_is_one_line_each(place: Place, tmp_path: Path):
    with pytest.raises(StorageError, match="is no work folder"):
        Eraser(tmp_path / "nowhere", ("7",)).erase()
    with pytest.raises(RecipeError, match="no key to forget"):
        Eraser(place.work.root, ()).erase()
    with pytest.raises(RecipeError, match="'' is no key"):
        place.eraser("").erase()
    with pytest.raises(RecipeError, match="no run here used a dataset 'nope'; there are home"):
        place.eraser(dataset="nope").erase()
    job = place.job().model_copy(update={"key": None, "name": "plain"})
    ingest(IngestJob.model_validate({**job.model_dump(), "limits": {"rows": 2}}), place.work)
    leave(place.work.root)
    with pytest.raises(RecipeError, match="the rows of 'plain' have no key"):
        place.eraser(dataset="plain").erase()
    place.eraser().erase(delete=True)
    request = next((place.work.root / "forgotten").glob("*.json"))
    request.write_text("{")
    with pytest.raises(StorageError, match=r"is damaged .* restore it from a copy"):
        read_requests(place.work)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do anything")
def test_a_folder_that_may_not_be_written_is_one_line(place: Place):
    place.work.root.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="Permission denied"):
            place.eraser().erase(delete=True)
    finally:
        place.work.root.chmod(0o700)


def test_a_request_is_forgotten_in_every_pair_that_it_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said = [("r1", "up", True), ("r2", "down", False), ("r3", "upper", True), ("r4", "lower", False)]
    lines = [{"request_id": id, "prompt": "p", "answer": text, "thumb": thumb} for id, text, thumb in said]
    lines = [{**line, "time": f"2026-11-0{n}T10:00:00Z"} for n, line in enumerate(lines, 1)]
    source = Feedback(path=str(write_jsonl(tmp_path / "log.jsonl", lines)), gives="pairs")
    work = Workspace(tmp_path / "work")

    def ingested() -> set[object]:
        job = IngestJob(
            name="home", source=source, files=source.pin(), limits=Limits(rows=1), key="request_id",
            excluded=excluded(read_requests(work), "home"),
        )  # fmt: skip
        raw = ingest(job, work)
        leave(work.root)
        return {values["request_id"] for _, values in read_snapshot(raw.path / "rows.parquet")}

    assert ingested() == {"r1>r2", "r3>r4"}

    def known(_: object, wanted: Any) -> Holdings:  # a registry whose one version learnt the pair
        found = [
            Holding(wanted=one, version="m@1", dataset="home", split="train") for one in wanted if ">" in one.value
        ]
        return Holdings(found=tuple(found), searched=("m@1",), without_index=())

    monkeypatch.setattr(module, "find_rows", known)
    registry: Any = None
    done = Eraser(work.root, ("r2",), by="a test").erase([registry], delete=True)
    assert [request.learnt for request in read_requests(work)] == [{digest_of_key("r2"): ("m@1",)}]
    assert (done.rows, done.absent) == (1, ())
    assert [trace.kind for trace in done.traces] == ["snapshot"]
    assert ingested() == {"r3>r4"}
