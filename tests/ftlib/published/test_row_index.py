"""The index against sets made from the rows themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.prepared import SPLITS
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.published.lineage import compare_rows, indexed_rows
from ftlib.published.row_index import (
    KEYS,
    ROWS,
    RowIndex,
    contains,
    index_file,
    read_row_index,
    row_id_bytes,
    rows_of,
    write_row_index,
)
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.testing import tiny_causal_lm, tiny_classifier, tiny_rows, write_jsonl
from ftlib.workspace import Workspace

FORMAT: dict[str, Any] = {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FoundModel:
    return find_model(ModelRef(path=str(tiny_classifier(tmp_path_factory.mktemp("model")))))


def prepare(
    folder: Path, model: FoundModel, rows: list[dict[str, Any]], **fields: Any
) -> tuple[RawDataset, PreparedDataset]:
    path = write_jsonl(folder / "rows.jsonl", rows)
    given = {"source": {"kind": "files", "path": str(path)}, "format": FORMAT, "limits": {"rows": 1}, **fields}
    dataset, work = Dataset.model_validate(given), Workspace(folder / "work")
    pins = dataset.source.pin()
    raw = ingest(
        IngestJob(name="mail", source=dataset.source, files=pins, limits=dataset.limits, key=dataset.key), work
    )
    job = PreprocessJob(name="mail", raw=raw, dataset=dataset, model=model, tokenizer=model.tokenizer, trains=True)
    return raw, preprocess(job, work)


def read(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[i : i + 16] for i in range(0, len(data), 16)]


def row_id(row: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(row, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:32]


def hashed(key: str, salt: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=16, key=hashlib.sha256(salt.encode()).digest()).digest()


def test_every_row_that_is_kept_is_in_the_index_of_its_split_and_nothing_else(tmp_path: Path, model: FoundModel):
    rows: list[dict[str, Any]] = [{**row, "id": i} for i, row in enumerate(tiny_rows(90))]
    copies = [{**rows[i], "id": 1000 + i} for i in range(5)]  # the same text under another key: dropped
    split = {"by": "given", "column": "side"}
    sides = [{**row, "side": "test" if row["id"] % 3 == 0 else "train"} for row in rows]
    sides += [{**row, "side": sides[row["id"] - 1000]["side"]} for row in copies]
    raw, prepared = prepare(tmp_path, model, sides, key="id", split=split)
    index = write_row_index(tmp_path / "out", "mail", prepared, raw, SPLITS, "id", "pepper")
    assert index == RowIndex(splits={"train": 60, "test": 30}, key="id", salt="pepper", identity=2)
    kept: set[str] = set()
    for name in ("train", "test"):
        found = read(tmp_path / "out" / index_file("mail", name, ROWS))
        assert found == sorted(found)
        ids = {data.hex() for data in found}
        texts = {row["text"] for row in sides if row["side"] == name}
        there = [row for row in sides if row_id(row) in ids]
        assert len(there) == len(ids)
        assert sorted(row["text"] for row in there) == sorted(texts)
        keys = read(tmp_path / "out" / index_file("mail", name, KEYS))
        assert keys == sorted(hashed(str(row["id"]), "pepper") for row in there)
        kept |= ids
    assert not (tmp_path / "out" / index_file("mail", "validation", ROWS)).exists()
    assert len(kept) == len(rows)


def test_equal_rows_give_equal_bytes_whatever_their_order(tmp_path: Path, model: FoundModel):
    rows = tiny_rows(60)
    written: list[dict[str, bytes]] = []
    for name, order in (("one", rows), ("two", rows[::-1])):
        raw, prepared = prepare(tmp_path / name, model, order)
        write_row_index(tmp_path / name / "out", "mail", prepared, raw, SPLITS, None, "s")
        files = sorted((tmp_path / name / "out").rglob("*.rows"))
        assert len(files) == 3
        assert not list((tmp_path / name / "out").rglob("*.keys"))
        written.append({path.name: path.read_bytes() for path in files})
    assert written[0] == written[1]


def test_keys_are_found_as_people_write_them_and_cannot_be_read(tmp_path: Path, model: FoundModel):
    """A column of mixed values is kept as JSON text; 7, "7" and 7.0 are one key."""
    ids: list[Any] = ["ann@example.org", 7, 8.0, "9"]
    rows = [{**row, "id": ids[i] if i < len(ids) else f"u{i}"} for i, row in enumerate(tiny_rows(60))]
    raw, prepared = prepare(tmp_path, model, rows, key="id", split={"validation": 0.0, "test": 0.0})
    index = write_row_index(tmp_path / "out", "mail", prepared, raw, SPLITS, "id", "salt")
    path = tmp_path / "out" / index_file("mail", "train", KEYS)
    stored = read_row_index(path)
    for asked in ("ann@example.org", " ann@example.org ", "7", 7, "8", 9):
        (found,) = index.key_bytes(asked)
        assert contains(stored, found).all(), asked
    (unknown,) = index.key_bytes("bob@example.org")
    assert not contains(stored, unknown).any()
    assert b"ann" not in path.read_bytes()
    assert index.key_bytes(None) == ()
    assert RowIndex(splits={}).key_bytes("7") == ()


def test_fresh_rows_are_those_a_version_never_saw_and_gone_rows_those_that_trained_it(
    tmp_path: Path, model: FoundModel
):
    rows: list[dict[str, Any]] = [{**row, "id": i} for i, row in enumerate(tiny_rows(80))]
    raw, old = prepare(tmp_path / "old", model, rows[:60], key="id")
    index = write_row_index(tmp_path / "out", "mail", old, raw, SPLITS, "id", "s")
    known = indexed_rows(tmp_path / "out", "mail", index)
    assert compare_rows(raw, old, {0}, known) == (0, 0)
    assert compare_rows(raw, old, {0}, {}) == (60, 0)

    trained = {data.hex() for data in read(tmp_path / "out" / index_file("mail", "train", ROWS))}
    i = next(i for i, row in enumerate(rows) if row_id(row) in trained)
    edited = [{**row, "label": "bug" if row["label"] != "bug" else "sales"} if row["id"] == i else row for row in rows]
    copy = {**rows[i + 1], "id": 99}  # the text is there already: one of the two is dropped
    raw, new = prepare(tmp_path / "new", model, [*edited, copy], key="id")
    kept = {row_id(row) for row in [*edited, copy]} - {row_id(row) for row in rows[:60]}
    packed = b"".join(rows_of(new, split).tobytes() for split in SPLITS)
    used = {packed[start : start + 16].hex() for start in range(0, len(packed), 16)}
    assert compare_rows(raw, new, {0}, known) == (len(kept & used), 1)
    assert compare_rows(raw, new, set(), known) == (0, 1)

    raw, fewer = prepare(tmp_path / "fewer", model, [row for row in rows[:60] if row["id"] != i], key="id")
    assert compare_rows(raw, fewer, {0}, known) == (0, 1)


def test_a_text_that_is_cut_into_pieces_is_one_row(tmp_path: Path):
    lm = find_model(ModelRef(path=str(tiny_causal_lm(tmp_path / "lm"))))
    rows = [{"text": f"{i} " + "please check the invoice again " * 12} for i in range(20)]
    form = {"kind": "plain_text", "text": "text", "max_tokens": 16}
    raw, prepared = prepare(tmp_path, lm, rows, format=form, split={"validation": 0.0, "test": 0.0})
    assert prepared.splits["train"].rows > 20
    assert write_row_index(tmp_path / "out", "mail", prepared, raw, SPLITS, None, "").splits == {"train": 20}
    assert {data.hex() for data in read(tmp_path / "out" / index_file("mail", "train", ROWS))} == {
        row_id(row) for row in rows
    }


@given(
    stored=st.sets(st.binary(min_size=16, max_size=16) | st.just(bytes(16)), max_size=20),
    asked=st.lists(st.binary(min_size=16, max_size=16) | st.just(b"a" + bytes(15)), max_size=20),
)
@settings(max_examples=60)
def test_looking_up_is_membership(stored: set[bytes], asked: list[bytes]):
    """Ids that end in zero bytes are where numpy's texts could go wrong."""
    index = np.array(sorted(stored), dtype="S16")
    wanted = asked + sorted(stored)
    assert contains(index, np.array(wanted, dtype="S16")).tolist() == [item in stored for item in wanted]


@pytest.mark.parametrize("text", ["", "abc", "zz" * 16, "0" * 31, "0" * 34])
def test_what_is_no_row_id(text: str):
    assert row_id_bytes(text) is None
