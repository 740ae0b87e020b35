from __future__ import annotations

from flows.pages.rows_page import ledgers, personal_lines, rows_lines, rows_markdown, rows_record
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset
from ftlib.data.personal_data import Counts

RAW = RawDataset(content="c", columns=(), files=(), ledger=Ledger(rows_in=91, kept=90, dropped={"repeated_header": 1}))
CLEAN = RawDataset(content="c", columns=(), files=(), ledger=Ledger(rows_in=5, kept=5))


def prepared(kept: int, dropped: dict[str, int]) -> PreparedDataset:
    ledger = Ledger(rows_in=kept + sum(dropped.values()), kept=kept, dropped=dropped)
    return PreparedDataset(content="c", kind="tagged", labels=(), splits={}, ledger=ledger, leaked=0, tokenizer="t")


def test_what_both_stages_dropped_is_one_sum_by_reason() -> None:
    found = ledgers(
        {"a": RAW, "b": CLEAN}, {"a": prepared(58, {"duplicate": 2, "tag_not_iob2": 30}), "b": prepared(5, {})}
    )
    assert rows_lines(found) == ["rows       a: 58 of 91 rows kept; 30 tag_not_iob2, 2 duplicate, 1 repeated_header"]
    for record in rows_record(found).values():
        assert record["rows_in"] == record["kept"] + sum(record["dropped"].values())


def test_personal_data_is_told_with_what_became_of_it() -> None:
    found: Counts = {"text": {"e-mail": 3, "phone": 1}, "author": {"e-mail": 2}, "key": {"ip": 1}}
    asked = {"every_column": "redact", "columns": {"author": "refuse", "key": "count"}}
    dataset = Dataset.model_validate(
        {
            "source": {"kind": "files", "path": "rows.jsonl"},
            "format": {"kind": "plain_text", "text": "text"},
            "personal_data": asked,
        }
    )
    said = personal_lines(
        {"a": RAW.model_copy(update={"personal_data": found}), "b": CLEAN}, {"a": dataset, "b": dataset}
    )
    assert said == ["personal   a: counted key: 1 ip; redacted text: 3 e-mail, 1 phone; refused author: 2 e-mail"]


def test_the_page_has_reasons_and_remedies_of_every_stage() -> None:
    page = rows_markdown({"a": RAW}, {"a": prepared(60, {"tag_not_iob2": 30})}).replace("\\", "").splitlines()
    assert "| a | ingest | 91 | 90 | 1 repeated_header |" in page
    assert "| a | preprocess | 90 | 60 | 30 tag_not_iob2 |" in page
    assert page[-1].startswith("- tags are O, B-TYPE and I-TYPE")
