"""Personal data at ingestion: counted, refused or redacted, and nothing that was redacted lies anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest

from ftlib.data.datasets import RawDataset
from ftlib.data.personal_data import PersonalData
from ftlib.data.snapshot import read_snapshot
from ftlib.errors import DataError
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.testing import write_jsonl
from ftlib.workspace import Workspace
from tests.ftlib.stages.test_ingest import job

SECRETS = ("ann@example.com", "4111111111111111", "192.168.7.7")
ROWS = [
    {"id": "1", "text": f"write {SECRETS[0]}", "note": "x"},
    {"id": "2", "text": f"card {SECRETS[1]}", "note": SECRETS[2]},
    {"id": "3", "text": "nothing", "note": "y"},
    {"id": SECRETS[0], "text": "the key is one", "note": "z"},
]


def asked(path: Path, columns: dict[str, Any] | None = None, **fields: Any) -> IngestJob:
    changed = {"personal_data": PersonalData(**fields), "key": "id"}
    return job(path, columns, bad_rows=0.9).model_copy(update=changed)


def rows_of(raw: RawDataset) -> list[dict[str, Any]]:
    return [values for _, values in read_snapshot(raw.path / "rows.parquet")]


def everything_in(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_by_default_it_is_counted_and_nothing_changes_not_even_the_fingerprint(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    plain = job(path, bad_rows=0.9).model_copy(update={"key": "id"})
    assert asked(path).fingerprint == plain.fingerprint
    raw = ingest(asked(path), Workspace(tmp_path / "work"))
    assert rows_of(raw) == ROWS
    assert raw.personal_data == {"id": {"e-mail": 1}, "note": {"ip": 1}, "text": {"card": 1, "e-mail": 1}}
    old = raw.model_dump(mode="json")
    del old["personal_data"]
    assert RawDataset.model_validate(old).personal_data is None


def test_what_is_redacted_lies_nowhere_in_the_work_folder_not_even_in_the_quarantine(tmp_path: Path):
    rows = [
        *ROWS[:3],
        {"id": "5", "text": 7, "note": f"odd: {SECRETS[0]}"},
        {"id": None, "text": SECRETS[0], "note": "no key"},
        {"id": "6", "text": "ok", "note": "n", "day": f"not a day {SECRETS[0]}"},
        {"id": ["a", SECRETS[0]], "text": "ok", "note": "n"},
        *({"id": ["v" * before + " " + SECRETS[0]], "text": "ok", "note": "n"} for before in (66, 280)),
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    columns = {"text": {"type": "string"}, "day": {"type": "datetime", "required": False}}
    work = Workspace(tmp_path / "work")
    raw = ingest(asked(path, columns, every_column="redact"), work)
    kept = rows_of(raw)
    assert [row["text"] for row in kept] == ["write [e-mail]", "card [card]", "nothing"]
    assert kept[1]["note"] == "[ip]"
    quarantined = [json.loads(line) for line in (raw.path / "quarantine.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in quarantined] == ["wrong_type", "missing_key", "wrong_type", *["missing_key"] * 3]
    assert "[e-mail]" in quarantined[2]["detail"]
    kept_bytes = everything_in(work.root / "stages")
    assert not [secret for secret in SECRETS if secret.encode() in kept_bytes]
    assert SECRETS[0].partition("@")[0].encode() not in kept_bytes, "nor the half of one that a quote was cut in"
    assert asked(path, every_column="redact").fingerprint != asked(path).fingerprint


def test_a_refused_row_is_in_quarantine_with_its_place_and_kinds_and_the_run_fails_above_a_limit(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    work = Workspace(tmp_path / "work")
    refusing = PersonalData(columns={"text": "refuse"})
    raw = ingest(asked(path).model_copy(update={"personal_data": refusing}), work)
    assert [row["id"] for row in rows_of(raw)] == ["3", SECRETS[0]]
    assert raw.ledger.dropped == {"personal_data": 2}
    quarantined = [json.loads(line) for line in (raw.path / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["line"], row["detail"]) for row in quarantined] == [
        (1, "column 'text' holds e-mail, which its personal_data refuses"),
        (2, "column 'text' holds card, which its personal_data refuses"),
    ]
    strict = job(path).model_copy(update={"personal_data": refusing})
    with pytest.raises(DataError, match=r"2 of 4 rows \(50.0%\) cannot be read, allowed 1.0%.*personal_data"):
        ingest(strict, Workspace(tmp_path / "other"))


def test_a_column_that_no_row_has_is_an_error_since_it_would_hide_nothing(tmp_path: Path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    misspelt = job(path, bad_rows=0.9).model_copy(update={"personal_data": PersonalData(columns={"txt": "redact"})})
    with pytest.raises(DataError, match=r"personal_data.columns: no column 'txt'.*did you mean 'text'"):
        ingest(misspelt, Workspace(tmp_path / "work"))
