from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from pydantic import ValidationError

from ftlib.errors import DataError, RecipeError, ReglageError
from ftlib.rows import BadRow, Row
from ftlib.sources.huggingface import HuggingFace
from ftlib.testing import tiny_rows, write_jsonl

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def values(source: HuggingFace) -> list[dict[str, Any]]:
    found: list[Row | BadRow] = list(source.read(source.pin(), 1000))
    assert all(isinstance(row, Row) for row in found)
    return [row.values for row in found if isinstance(row, Row)]


def dataset() -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"]), "n": Value("int64")})
    return Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1], "n": [1, 2, 3]}, features=features)


EXPECTED = [
    {"text": "a", "label": "ham", "n": 1},
    {"text": "b", "label": "spam", "n": 2},
    {"text": "c", "label": None, "n": 3},
]


def test_a_saved_dataset_with_its_class_names(tmp_path: Path) -> None:
    dataset().save_to_disk(tmp_path / "saved")
    assert values(HuggingFace(path=str(tmp_path / "saved"))) == EXPECTED


def test_a_split_of_a_saved_dictionary(tmp_path: Path) -> None:
    DatasetDict({"train": dataset(), "dev": dataset().select([1])}).save_to_disk(tmp_path / "saved")
    assert values(HuggingFace(path=str(tmp_path / "saved"), split="dev")) == EXPECTED[1:2]
    with pytest.raises(DataError, match="no split 'test'; the splits are train, dev"):
        values(HuggingFace(path=str(tmp_path / "saved"), split="test"))


def test_selected_rows_only_are_read(tmp_path: Path) -> None:
    dataset().select([2, 0]).save_to_disk(tmp_path / "saved")
    assert values(HuggingFace(path=str(tmp_path / "saved"))) == [EXPECTED[2], EXPECTED[0]]


def test_a_folder_that_datasets_loads_by_itself(tmp_path: Path) -> None:
    rows = tiny_rows(5)
    write_jsonl(tmp_path / "data" / "train.jsonl", rows)
    write_jsonl(tmp_path / "data" / "test.jsonl", tiny_rows(2, seed=1))
    assert values(HuggingFace(path=str(tmp_path))) == rows
    with pytest.raises(DataError, match="not loadable as a dataset"):
        values(HuggingFace(path=str(tmp_path), split="nowhere"))


def test_a_folder_that_changes_while_it_is_read_fails(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", tiny_rows(5))
    source = HuggingFace(path=str(tmp_path))
    pinned = source.pin()
    write_jsonl(path, tiny_rows(6))
    with pytest.raises(DataError, match="changed while it was read"):
        list(source.read(pinned, 1000))


def test_a_hub_name_needs_a_commit() -> None:
    with pytest.raises(RecipeError, match="needs `revision`"):
        HuggingFace(path="someone/rows").pin()
    with pytest.raises(ValidationError):
        HuggingFace(path="someone/rows", revision="main")
    (pinned,) = HuggingFace(path="someone/rows", revision=COMMIT).pin()
    assert pinned.uri == f"hf://datasets/someone/rows@{COMMIT}"


def test_a_hub_that_cannot_be_reached_is_one_line() -> None:
    source = HuggingFace(path="someone/rows", revision=COMMIT)  # the tests run with HF_HUB_OFFLINE=1
    with pytest.raises(ReglageError, match="someone/rows") as caught:
        list(source.read(source.pin(), 1000))
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        HuggingFace(path=str(tmp_path / "absent")).pin()
    with pytest.raises(DataError, match="an empty folder"):
        HuggingFace(path=str(tmp_path)).pin()
