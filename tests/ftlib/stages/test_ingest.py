from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ftlib.artifacts import RawDataset
from ftlib.errors import DataError
from ftlib.progress import Progress, listen
from ftlib.recipe import Limits
from ftlib.snapshot import read_snapshot
from ftlib.sources.files import Files
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.testing import tiny_rows, write_jsonl
from ftlib.workspace import Workspace


def job(path: Path, **limits: Any) -> IngestJob:
    source = Files(path=str(path))
    return IngestJob(
        name="mail", source=source, files=source.pin(), limits=Limits.model_validate({"rows": 1, **limits})
    )


def run(path: Path, work: Path, **limits: Any) -> RawDataset:
    return ingest(job(path, **limits), Workspace(work))


def rows_of(raw: RawDataset) -> list[dict[str, Any]]:
    return [values for _, values in read_snapshot(raw.path / "rows.parquet")]


def test_rows_arrive_with_a_ledger_that_adds_up(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(20))
    with path.open("ab") as stream:
        stream.write(b'{"text": "\xff"}\n{broken\n{}\n')
    raw = run(path, tmp_path / "work", bad_rows=0.2)
    assert rows_of(raw) == tiny_rows(20)
    assert raw.columns == ("day", "group", "label", "text")
    assert raw.ledger.model_dump() == {
        "rows_in": 23,
        "kept": 20,
        "dropped": {"broken_json": 1, "invalid_utf8": 1, "no_values": 1},
    }
    quarantined = [json.loads(line) for line in (raw.path / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["uri"], row["line"], row["reason"]) for row in quarantined] == [
        (str(path), 21, "invalid_utf8"),
        (str(path), 22, "broken_json"),
        (str(path), 23, "no_values"),
    ]
    assert sorted(p.name for p in raw.path.iterdir()) == ["artifact.json", "quarantine.jsonl", "rows.parquet"]


line = st.one_of(
    st.dictionaries(st.sampled_from("ab"), st.integers(0, 9) | st.text(max_size=5), max_size=2).map(json.dumps),
    st.text(max_size=10).filter(lambda text: "\n" not in text and "\r" not in text),
)


@given(st.lists(line, max_size=20))
@settings(deadline=None, max_examples=60)
def test_nothing_vanishes_without_a_reason(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    (folder / "rows.jsonl").write_text("\n".join([*lines, '{"z": 1}']), encoding="utf-8")
    raw = run(folder / "rows.jsonl", folder / "work", bad_rows=1.0)
    quarantined = (raw.path / "quarantine.jsonl").read_text().splitlines()
    assert raw.ledger.rows_in == raw.ledger.kept + sum(raw.ledger.dropped.values())
    assert raw.ledger.rows_in == 1 + sum(bool(text.strip()) for text in lines)
    assert len(quarantined) == sum(raw.ledger.dropped.values())
    assert len(rows_of(raw)) == raw.ledger.kept


def test_the_same_rows_are_the_same_content_whatever_the_files_are_called(tmp_path: Path) -> None:
    rows = tiny_rows(12)
    for folder, names in (("one", ("a", "b")), ("two", ("z", "y"))):
        write_jsonl(tmp_path / folder / f"{names[0]}.jsonl", rows[:6])
        write_jsonl(tmp_path / folder / f"{names[1]}.jsonl", rows[6:])
    one, two = (run(tmp_path / folder, tmp_path / "work") for folder in ("one", "two"))
    assert one.content == two.content
    assert one.fingerprint != two.fingerprint


def test_jsonl_and_parquet_of_the_same_rows_are_the_same_content(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"text": "a", "n": 1, "x": 0.5, "tags": ["u"]}, {"text": "b", "n": None, "x": 2.5}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    jsonl = run(tmp_path / "rows.jsonl", tmp_path / "work")
    table = run(tmp_path / "rows.parquet", tmp_path / "work")
    assert jsonl.content == table.content


def test_changed_bytes_under_the_same_path_are_other_content(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(12))
    before = run(path, tmp_path / "work")
    write_jsonl(path, [*tiny_rows(11), {"text": "new", "label": "bug"}])
    assert run(path, tmp_path / "work").content != before.content


def test_a_file_that_changes_after_it_was_pinned_leaves_no_snapshot(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(12))
    stale, work = job(path), Workspace(tmp_path / "work")
    write_jsonl(path, tiny_rows(13))
    with pytest.raises(DataError, match="changed while it was read"):
        ingest(stale, work)
    assert work.find(stale, RawDataset) is None


def test_too_many_bad_rows_fail_with_place_reason_and_remedy(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(97))
    with path.open("ab") as stream:
        stream.write(b'{"text": "\xff"}\nnot json\n{"text": 1\n')
    assert run(path, tmp_path / "work", bad_rows=0.03).ledger.kept == 97
    asked, work = job(path, bad_rows=0.02), Workspace(tmp_path / "work")
    with pytest.raises(DataError) as caught:
        ingest(asked, work)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("datasets.mail: 3 of 100 rows (3.0%) cannot be read, allowed 2.0%: 2 broken_json")
    assert f"{path}:98" in message
    assert f"{path}:99" in message
    assert "raise limits.bad_rows" in message
    assert work.find(asked, RawDataset) is None


def test_no_rows_and_too_few_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"datasets\.mail: no rows in 1 files, needed are at least 1"):
        run(tmp_path / "empty.jsonl", tmp_path / "work")
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(9))
    with pytest.raises(DataError, match="9 rows in 1 files, needed are at least 10"):
        run(path, tmp_path / "work", rows=10)


def test_a_second_run_reads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(12))
    asked, work = job(path), Workspace(tmp_path / "work")
    first = ingest(asked, work)
    path.unlink()
    assert ingest(asked, work) == first


def test_memory_is_bounded_by_the_batch_and_not_by_the_rows(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ({"n": i, "text": "x" * 5000} for i in range(6000)))
    asked = job(path)
    tracemalloc.start()
    raw = ingest(asked, Workspace(tmp_path / "work"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert raw.ledger.kept == 6000
    assert peak < path.stat().st_size / 2


def test_progress_ends_at_its_total(tmp_path: Path) -> None:
    seen: list[Progress] = []
    with listen(seen.append):
        run(write_jsonl(tmp_path / "rows.jsonl", tiny_rows(4500)), tmp_path / "work")
    assert [progress.done for progress in seen] == [2000, 4000, 4500]
    assert all(progress.done < progress.total for progress in seen[:-1])
    assert seen[-1].done == seen[-1].total
