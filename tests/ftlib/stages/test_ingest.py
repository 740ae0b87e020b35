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

from ftlib.data.datasets import RawDataset
from ftlib.data.limits import Limits
from ftlib.data.snapshot import read_origins, read_snapshot
from ftlib.data.sources.files import Files
from ftlib.errors import DataError
from ftlib.progress import Progress, listen
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.testing import tiny_rows, write_jsonl
from ftlib.workspace import Workspace


def job(path: Path, columns: dict[str, Any] | None = None, **limits: Any) -> IngestJob:
    source = Files(path=str(path))
    fields = {"columns": columns or {}, "limits": {"rows": 1, **limits}}
    return IngestJob.model_validate({"name": "mail", "source": source, "files": source.pin(), **fields})


def run(path: Path, work: Path, columns: dict[str, Any] | None = None, **limits: Any) -> RawDataset:
    return ingest(job(path, columns, **limits), Workspace(work))


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
@settings(max_examples=60)
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


COLUMNS: dict[str, Any] = {
    "text": {"type": "string", "min_length": 1},
    "label": {"type": "enum", "values": ["bug", "billing", "sales"]},
    "day": {"type": "int"},
}


def test_rows_that_break_the_schema_are_quarantined_with_the_column_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(20))
    with path.open("ab") as stream:
        stream.write(b'{"text": "x", "label": "bug"}\n{"text": 7, "label": "bug", "day": 1}\n')
        stream.write(b'{"text": "x", "label": "bgu", "day": 1}\n{"text": "x", "label": "bug", "day": 1, "day": 2}\n')
    raw = run(path, tmp_path / "work", COLUMNS, bad_rows=0.2)
    assert raw.ledger.dropped == {"broken_json": 1, "missing_value": 1, "not_allowed": 1, "wrong_type": 1}
    quarantined = [json.loads(line) for line in (raw.path / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"], row["column"]) for row in quarantined] == [
        (21, "missing_value", "day"),
        (22, "wrong_type", "text"),
        (23, "not_allowed", "label"),
        (24, "broken_json", None),
    ]


def test_a_schema_that_rows_keep_changes_nothing_but_the_job(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(20))
    plain, checked = run(path, tmp_path / "work"), run(path, tmp_path / "work", COLUMNS)
    assert plain.content == checked.content
    assert plain.fingerprint != checked.fingerprint


def test_csv_is_read_as_the_types_that_the_schema_asks_for(tmp_path: Path) -> None:
    rows = [{"text": "a", "n": 1, "x": 0.5, "ok": True}, {"text": "b", "n": 2, "x": 3.0, "ok": False}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    (tmp_path / "rows.csv").write_text("text,n,x,ok\na,1,0.5,true\nb,2,3,false\n")
    csv = run(
        tmp_path / "rows.csv", tmp_path / "work", {"n": {"type": "int"}, "x": {"type": "float"}, "ok": {"type": "bool"}}
    )
    assert csv.content == run(tmp_path / "rows.parquet", tmp_path / "work").content
    assert rows_of(csv) == rows


def test_a_renamed_column_is_one_clear_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ({"body": row["text"], "label": row["label"]} for row in tiny_rows(50)))
    with pytest.raises(DataError) as caught:
        run(path, tmp_path / "work", {"text": {"type": "string"}})
    message = str(caught.value)
    assert "\n" not in message
    assert "missing_value in 100 % of the rows: column 'text': absent; there are 'body', 'label'" in message


def test_a_column_of_another_type_is_one_clear_line(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ({**row, "day": str(row["day"])} for row in tiny_rows(50)))
    with pytest.raises(DataError, match=r"wrong_type in 100 % of the rows: column 'day': Expected `int`, got `str`"):
        run(path, tmp_path / "work", COLUMNS)


def test_reading_stops_at_the_count_of_bad_rows_and_at_the_budgets(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(5000))
    size = path.stat().st_size
    assert run(path, tmp_path / "work", max_rows=5000, max_bytes=size).ledger.kept == 5000
    seen: list[Progress] = []
    with listen(seen.append):
        with pytest.raises(DataError, match=r"more than 3999 rows; take some files out or raise limits\.max_rows"):
            run(path, tmp_path / "work", max_rows=3999)
        with pytest.raises(DataError, match=r"more than 1000 bytes of rows; .* raise limits\.max_bytes"):
            run(path, tmp_path / "work", max_bytes=1000)
        path.write_text("broken\n" * 10_000)
        with pytest.raises(DataError, match="2000 of the first 2000 rows cannot be read, allowed 5: 2000 broken_json"):
            run(path, tmp_path / "work", bad_row_count=5)
    assert [progress.done for progress in seen] == [2000, 4000, 2000, 2000]


def test_the_count_of_bad_rows_holds_for_few_rows_too(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(10))
    with path.open("a") as stream:
        stream.write("broken\n" * 6)
    assert run(path, tmp_path / "work", bad_rows=1.0, bad_row_count=6).ledger.kept == 10
    with pytest.raises(DataError, match="6 of the first 16 rows cannot be read, allowed 5"):
        run(path, tmp_path / "work", bad_rows=1.0, bad_row_count=5)


def test_no_rows_and_too_few_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"datasets\.mail: no rows in 1 file, needed are at least 1"):
        run(tmp_path / "empty.jsonl", tmp_path / "work")
    path = write_jsonl(tmp_path / "rows.jsonl", tiny_rows(9))
    with pytest.raises(DataError, match="9 rows in 1 file, needed are at least 10"):
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


def keyed(folder: Path, work: Path, **fields: Any) -> RawDataset:
    source = Files(path=str(folder))
    limits = Limits(rows=1, bad_rows=0.5)
    given: dict[str, Any] = {"key": "id", "updated": "at", **fields}
    return ingest(IngestJob(name="mail", source=source, files=source.pin(), limits=limits, **given), Workspace(work))


def test_of_each_key_the_last_version_stays_and_the_ledger_says_what_became_of_the_others(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    write_jsonl(rows / "1.jsonl", [{"id": i, "at": "2026-01-01", "text": f"t{i}"} for i in range(5)])
    write_jsonl(
        rows / "2.jsonl",
        [{"id": "1", "at": "2026-01-02", "text": "new"}, {"id": 2, "at": "2025-12-31", "text": "late"}],
    )
    write_jsonl(
        rows / "0.jsonl", [{"id": 3, "_deleted": True}, {"text": "no id"}, {"id": 4, "at": "soon", "text": "x"}]
    )
    raw = keyed(rows, tmp_path / "work")
    assert {str(row["id"]): row["text"] for row in rows_of(raw)} == {"0": "t0", "1": "new", "2": "t2", "4": "t4"}
    assert raw.ledger.model_dump() == {
        "rows_in": 10,
        "kept": 4,
        "dropped": {"deleted": 1, "missing_key": 1, "odd_updated": 1, "superseded": 2, "tombstone": 1},
    }
    assert "_deleted" not in raw.columns
    origins = {row_id: raw.files[place or 0].uri for row_id, place in read_origins(raw.path / "rows.parquet")}
    assert sorted(Path(uri).name for uri in origins.values()) == ["1.jsonl", "1.jsonl", "1.jsonl", "2.jsonl"]


def test_an_edited_file_brings_only_its_new_rows(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    write_jsonl(rows / "1.jsonl", [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}])
    write_jsonl(rows / "2.jsonl", [{"id": 3, "text": "c"}])
    keyed(rows, tmp_path / "work", updated=None)
    write_jsonl(rows / "1.jsonl", [{"id": 1, "text": "better"}])
    for key in ("id", None):
        raw = keyed(rows, tmp_path / "work", key=key, updated=None)
        assert sorted(row["text"] for row in rows_of(raw)) == ["better", "c"]
        assert raw.ledger.dropped == {}


def test_a_tombstone_without_a_key_to_go_by_is_not_trained_on(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows" / "1.jsonl", [{"id": 1, "text": "a"}, {"id": 1, "_deleted": True}])
    raw = keyed(tmp_path / "rows", tmp_path / "work", key=None, updated=None)
    assert raw.ledger.dropped == {"reserved_column": 1}


def test_the_snapshot_is_the_same_bytes_whatever_the_files_are_called(tmp_path: Path) -> None:
    rows = [{**row, "id": i % 9} for i, row in enumerate(tiny_rows(12))]
    for folder, names in (("one", ("a", "b")), ("two", ("c/z", "d/zz"))):
        for name, part in zip(names, (rows[:6], rows[6:]), strict=True):
            write_jsonl(tmp_path / folder / f"{name}.jsonl", part)
    one, two = (keyed(tmp_path / f, tmp_path / "work", updated=None).path / "rows.parquet" for f in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_without_moments_the_file_that_is_listed_last_counts_whatever_its_bytes(tmp_path: Path) -> None:
    for texts in ("xy", "yx"):
        for name, text in zip(("2026-01", "2026-02"), texts, strict=True):
            write_jsonl(tmp_path / texts / f"{name}.jsonl", [{"id": 1, "text": "old line"}, {"id": 1, "text": text}])
        raw = keyed(tmp_path / texts, tmp_path / "work", updated=None)
        assert [row["text"] for row in rows_of(raw)] == [texts[1]]


def test_a_column_that_nobody_reads_is_named_with_its_remedy_and_can_be_dropped(tmp_path: Path) -> None:
    path, rows = tmp_path / "rows.parquet", tiny_rows(20)
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table.append_column("thumb", pa.array([b"\xff\xd8"] * 20)), path)
    with pytest.raises(DataError) as caught:
        run(path, tmp_path / "work")
    assert str(caught.value).split("; all are in")[0] == (
        "datasets.mail: 20 of 20 rows (100.0%) cannot be read, allowed 1.0%: binary_value in 100 % of the rows: column "
        "'thumb' holds bytes, neither text nor a number (an image? name it in source.images); correct it, or leave it "
        "out: source.drop_columns"
    )
    asked = job(path)
    kept = asked.model_copy(update={"source": asked.source.model_copy(update={"drop_columns": ("thumb",)})})
    assert rows_of(ingest(kept, Workspace(tmp_path / "work"))) == rows


def test_a_repeated_header_is_in_quarantine_and_no_lost_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    part = "\ufefftext,label\n" + "".join(f"row {{0}} {i},bug\n" for i in range(20))
    path.write_text(part.format("a") + part.format("b"), encoding="utf-8")
    raw = run(path, tmp_path / "work", bad_rows=0.0, bad_row_count=0)
    assert raw.ledger.model_dump() == {"rows_in": 41, "kept": 40, "dropped": {"repeated_header": 1}}
    (quarantined,) = map(json.loads, (raw.path / "quarantine.jsonl").read_text().splitlines())
    assert (quarantined["line"], quarantined["reason"]) == (22, "repeated_header")


@pytest.mark.parametrize("limit", [{"bad_rows": 0.01}, {"bad_rows": 1.0, "bad_row_count": 3}])
def test_rows_in_another_encoding_are_not_to_be_lost_by_a_higher_limit(tmp_path: Path, limit: dict[str, Any]) -> None:
    path = tmp_path / "rows.csv"
    lines = "".join(f"{'café' if i % 4 == 0 else 'tea'} {i},bug\n" for i in range(2000))
    path.write_bytes(f"text,label\n{lines}".encode("cp1252"))
    with pytest.raises(DataError) as caught:
        run(path, tmp_path / "work", **limit)
    assert "500" in str(caught.value)
    assert "iconv -f cp1252 -t UTF-8" in str(caught.value)
    assert "write the text as UTF-8" in str(caught.value)
    assert "raise limits" not in str(caught.value)


def test_where_most_rows_are_bad_no_limit_is_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{row}\n" for row in tiny_rows(20)))  # as Python spells them
    with pytest.raises(DataError, match=r"20 of 20 rows .* a Python dict and no JSON") as caught:
        run(path, tmp_path / "work")
    assert "raise limits" not in str(caught.value)


def test_a_schema_says_that_columns_stand_between_semicolons(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text;label\nno separator here\n" * 20)
    with pytest.raises(DataError, match="write commas between columns, not semicolons"):
        run(path, tmp_path / "work", {"text": {"type": "string"}})
