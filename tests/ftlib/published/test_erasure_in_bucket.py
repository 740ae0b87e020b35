"""Rows that are forgotten in a work place in a bucket: no object, and no file of this machine's cache, has one."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from click.testing import CliRunner
from pyarrow import parquet

from flows.command_line.main import main
from ftlib.artifacts import Artifact
from ftlib.data.forgotten import excluded, read_requests
from ftlib.data.limits import Limits
from ftlib.data.snapshot import read_snapshot
from ftlib.data.sources.files import Files
from ftlib.errors import BusyError, StorageError
from ftlib.fingerprint import Job
from ftlib.published.erasure import check_done
from ftlib.published.erasure_in_bucket import BucketEraser
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.storage import S3Store, Store, claims
from ftlib.storage.leases import lease
from ftlib.testing import tiny_recipe, tiny_rows, write_jsonl
from ftlib.work_collection.bucket_contents import look
from ftlib.workspace import InBucket, Workspace, add, overwrite

SECRET = "Zanzibar is where Ann Example spends her evenings"
ROWS = [{"id": n, "text": f"row number {n} says nothing of anybody", "label": "a"} for n in range(20)]
ROWS[7]["text"] = SECRET


class Prepared(Job):
    stage: ClassVar[str] = "preprocess"
    version: ClassVar[int] = 1
    name: str


class Weights(Prepared):
    stage: ClassVar[str] = "train"


class Made(Artifact):
    def digest(self) -> str:
        return "made"


def rows_of(*row_ids: str) -> Callable[[Path], Made]:
    def make(folder: Path) -> Made:
        with pa.ipc.new_file(str(folder / "train.arrow"), pa.schema([("row_id", pa.string())])) as writer:
            writer.write_batch(pa.record_batch({"row_id": [*row_ids]}))
        (folder / "tokenizer.json").write_text("of all")
        return Made()

    return make


class Place:
    """A work place in a bucket with a snapshot, and what runs make of it."""

    def __init__(self, uri: str, folder: Path) -> None:
        self.source = write_jsonl(folder / "rows.jsonl", ROWS)
        work = Workspace(uri)
        assert isinstance(work, InBucket)
        self.work = work
        self.raw = ingest(self.job(), work)
        self.ids = {values["id"]: row_id for row_id, values in read_snapshot(self.raw.path / "rows.parquet")}
        self.prepared, self.kept, self.same = (Prepared(name=name) for name in ("with", "without", "the same"))
        work.once(self.prepared, Made, rows_of(self.ids[3], self.ids[7]))
        work.once(self.same, Made, rows_of(self.ids[3], self.ids[7]))
        work.once(self.kept, Made, rows_of(self.ids[3]))
        work.once(Weights(name="x"), Made, self.train)
        table = io.BytesIO()
        parquet.write_table(pa.table({"row_id": [self.ids[3], f"{self.ids[7]}-1"], "nll": [0.1, 0.2]}), table)
        add(work, "outcomes/aa.parquet", table.getvalue())
        add(work, "outcomes/bb.json", b"{}")
        overwrite(work, "runs/tickets/report.html", f"<p>{SECRET} &amp; more</p>".encode())
        overwrite(work, "runs/other/report.html", b"<p>nothing of her</p>")
        work.store.write("exchange/0123/rows-1", SECRET.encode())
        work.store.write("jobs/ingest-00aa.failed", json.dumps({"said": SECRET}).encode())
        (folder / "carried").mkdir()
        (folder / "carried" / "examples.jsonl").write_text(json.dumps({"row_id": self.ids[7]}))
        self.carried = work.carry(folder / "carried")
        view = work.root / "versions" / "0123"
        view.mkdir(parents=True)
        (view / "train.rows").write_bytes(bytes.fromhex(self.ids[7]))
        (work.root / "stages" / "preprocess" / "00000000000000dd.work").mkdir()

    @staticmethod
    def train(folder: Path) -> Made:
        (folder / "model.safetensors").write_text("weights")
        return Made()

    def job(self) -> IngestJob:
        source = Files(path=str(self.source))
        forgotten = excluded(read_requests(self.work), "home") if hasattr(self, "raw") else ()
        return IngestJob(
            name="home", source=source, files=source.pin(), limits=Limits(rows=1), key="id", excluded=forgotten
        )

    def eraser(self, *keys: str, **fields: Any) -> BucketEraser:
        return BucketEraser(self.work, keys or ("7",), by="a test", **fields)

    def everything(self) -> dict[str, bytes]:
        paths = look(self.work).things
        return {path: self.work.store.read(path) or b"" for path in paths}

    def holding(self) -> set[str]:
        """Return every object, and every file of this machine's cache, in which the row's id or text is."""
        data = self.everything()
        cache = self.work.view.cache
        data |= {str(path): path.read_bytes() for path in cache.rglob("*") if path.is_file()}
        marks = (self.ids[7].encode(), bytes.fromhex(self.ids[7]), SECRET[:24].encode())
        return {path for path, text in data.items() if any(mark in _plain(text) for mark in marks)}


def _plain(data: bytes) -> bytes:
    """Return what is in a compressed table, too."""
    if data[:4] != b"PAR1":
        return data
    return repr(parquet.read_table(io.BytesIO(data)).to_pylist()).encode()


@pytest.fixture
def place(bucket: Any, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr(claims, "PATIENCE", 0.4)
    monkeypatch.setattr(claims, "FIRST_LOOK", 0.05)
    return Place(f"s3://{bucket.name}/work", tmp_path)


def forgotten_parts(place: Place) -> Iterator[str]:
    for path in place.holding():
        if not path.startswith(("shared/forgotten", str(place.work.root / "forgotten"))):
            yield path


def test_every_trace_goes_from_the_bucket_and_from_this_machines_cache(place: Place) -> None:
    before = place.everything()
    found = place.eraser().erase()
    assert place.everything() == before
    assert not found.acted
    assert len(place.holding()) > 12
    done = place.eraser().erase(delete=True)
    requests = {f"shared/forgotten/{one.name}.json" for one in read_requests(place.work)}
    blobs = {path for path in place.holding() if path.startswith("blobs/")}
    request = place.work.shared(f"forgotten/{read_requests(place.work)[0].name}")
    assert {place.work.store.read(blob) for blob in blobs} == {request.read_bytes()}  # it alone has the row's id
    assert {*forgotten_parts(place)} - blobs - {str(one) for one in place.work.view.cache.glob("blobs/*/*")} == set()
    assert requests <= place.everything().keys()
    has = place.work.has
    assert [has(place.prepared), has(place.same), has(place.kept), has(Weights(name="x"))] == [False] * 2 + [True] * 2
    assert place.work.find(place.kept, Made)
    assert "runs/other/report.html" in place.everything()
    named = {trace.path for trace in done.traces}
    assert named >= {trace.path for trace in found.traces}
    assert named >= {"exchange/0123", "jobs/ingest-00aa.failed", "outcomes/aa.parquet", "runs/tickets/report.html"}
    certificate = json.loads(Path(str(done.certificate)).read_text())
    assert any("REGLAGE_CACHE_GB" in line for line in certificate["not_cleared"])
    assert place.work.names("forgotten/certificates")
    again = ingest(place.job(), place.work)
    assert (again.ledger.dropped, again.ledger.kept) == ({"forgotten": 1}, 19)
    assert place.eraser().erase().traces == ()


@pytest.mark.slow
def test_nothing_goes_while_somebody_works_there_and_the_key_is_on_the_list(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = place.holding()
    with place.work.hold("runs/tickets", wait=False):
        asked = place.eraser().erase(delete=True)
        assert (asked.acted, asked.in_use[0].split(" ")[0]) == (False, "runs-tickets")
        with pytest.raises(BusyError, match="is in use by runs-tickets"):
            check_done(asked)
        assert place.holding() >= before
        assert excluded(read_requests(place.work), "home")
    with lease(place.work.store, ("blobs/sha256/ab/ab",)), monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another")
        assert "an upload" in place.eraser().erase(delete=True).in_use[0]
    with place.work.hold("forgotten/forget", wait=False), pytest.raises(BusyError, match="is already"):
        place.eraser().erase(delete=True)


@pytest.mark.slow
def test_a_blob_of_no_row_that_somebody_counts_on_meanwhile_is_put_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.work.store.discard(f"stages/preprocess/{place.kept.fingerprint}/record.json")
    discard, others = S3Store.discard, []

    def racing(store: Store, path: str) -> bool:
        if path.startswith("blobs/") and store.read(path) == b"of all" and not others:  # found there, so not sent
            others.append(place.work.once(Prepared(name="late"), Made, rows_of(place.ids[3])))
        return discard(store, path)  # type: ignore[arg-type]

    monkeypatch.setattr(S3Store, "discard", racing)
    place.eraser().erase(delete=True)
    (late,) = others
    tree = place.work.view.tree(f"stages/preprocess/{late.fingerprint}")
    assert tree
    assert all(place.work.store.size(file.blob) == file.bytes for file in tree.files)


@pytest.mark.slow
@pytest.mark.parametrize("after", range(0, 40, 3))
def test_killed_anywhere_it_is_finished_by_another(place: Place, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    class Killed(BaseException):
        pass

    discard, left = S3Store.discard, iter(range(after))

    def dies(store: Store, path: str) -> bool:
        if not path.startswith(("claims/", "leases/")) and next(left, None) is None:
            raise Killed
        return discard(store, path)  # type: ignore[arg-type]

    monkeypatch.setattr(S3Store, "discard", dies)
    try:
        place.eraser().erase(delete=True)
    except Killed:
        monkeypatch.setattr(S3Store, "discard", discard)
        assert place.eraser().erase(delete=True).acted
    request = place.work.shared(f"forgotten/{read_requests(place.work)[0].name}").read_bytes()
    assert {place.work.store.read(path) for path in place.holding() if path.startswith("blobs/")} == {request}


@pytest.mark.slow
def test_the_command_and_what_is_no_work_place(place: Place, monkeypatch: pytest.MonkeyPatch, bucket: Any) -> None:
    answer = CliRunner().invoke(main, ["forget", "--key", "7", "--work", str(place.work)])
    assert answer.exit_code == 0, answer.output
    assert "would be cleared" in answer.output
    nowhere = InBucket(f"s3://{bucket.name}/elsewhere")
    with pytest.raises(StorageError, match="is no work place"):
        BucketEraser(nowhere, ("7",)).erase(delete=True)
    assert not nowhere.exists()
    monkeypatch.setattr(S3Store, "discard", lambda store, path: False)
    with pytest.raises(StorageError, match="may not be deleted: it needs s3:DeleteObject"):
        place.eraser().erase(delete=True)


@pytest.mark.slow
def test_from_a_run_in_a_bucket_to_a_version_that_does_not_know_the_row(
    bucket: Any, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "node"))
    from tests.flows.test_work_collected import run  # it loads what trains

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe, work = tiny_recipe(tmp_path), f"s3://{bucket.name}/work"
    recipe.write_text(recipe.read_text().replace("  home:\n    source", "  home:\n    key: id\n    source"))
    rows = [{"id": n, **row} for n, row in enumerate(tiny_rows(120))]
    rows[17]["text"] += f" {SECRET}"
    write_jsonl(tmp_path / "home.jsonl", rows)
    first = run(recipe, Workspace(work))

    def holding() -> list[str]:
        data = {one.key: one.get()["Body"].read() for one in bucket.objects.all()}
        folders = (tmp_path / "node", tmp_path / "cache")
        data |= {str(path): path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}
        return [path for path, text in data.items() if SECRET.encode() in _plain(text)]

    assert holding()
    asked = ["forget", "--key", "17", "--dataset", "home", "--work", work, "--delete", "--json"]
    answer = CliRunner().invoke(main, asked)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["acted"]
    assert holding() == []
    assert run(recipe, Workspace(work)) == first + 1  # the source still has it
    assert holding() == []
