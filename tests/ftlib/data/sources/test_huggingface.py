from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from pydantic import ValidationError

from ftlib.data.rows import BadRow, Row
from ftlib.data.sources.files import Files
from ftlib.data.sources.huggingface import HuggingFace
from ftlib.errors import DataError, RecipeError, ReglageError
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


TAGS = ClassLabel(names=["zeta", "alpha", "mid"])


def test_classes_in_lists_and_structs_have_their_names_however_the_rows_are_stored(tmp_path: Path) -> None:
    """Against `int2str` of `datasets`, which names one number at a time."""
    features = Features({
        "text": Value("string"), "labels": List(TAGS), "meta": {"kind": TAGS, "all": [{"tags": List(TAGS)}]},
        "ids": List(Value("int64")),
    })  # fmt: skip
    numbers = {
        "text": ["a", "b"], "labels": [[2, 0], []], "ids": [[0], [1, 2]],
        "meta": [{"kind": 1, "all": [{"tags": [0, 2]}]}, {"kind": 0, "all": []}],
    }  # fmt: skip
    stored = Dataset.from_dict(numbers, features=features)
    stored.save_to_disk(tmp_path / "saved")
    stored.to_parquet(tmp_path / "parquet" / "train.parquet")
    name: Callable[[int], Any] = TAGS.int2str
    expected = [
        {"text": row["text"], "labels": [name(tag) for tag in row["labels"]], "ids": row["ids"],
         "meta": {"kind": name(row["meta"]["kind"]),
                  "all": [{"tags": [name(tag) for tag in one["tags"]]} for one in row["meta"]["all"]]}}
        for row in stored
    ]  # fmt: skip
    assert expected[0]["labels"] == ["mid", "zeta"]
    for folder in ("saved", "parquet"):
        assert values(HuggingFace(path=str(tmp_path / folder))) == expected
    assert [row.values for row in read_files(tmp_path / "parquet")] == expected


def read_files(folder: Path) -> list[Row]:
    source = Files(path=str(folder))
    found = list(source.read(source.pin(), 10_000))
    assert all(isinstance(row, Row) for row in found)
    return [row for row in found if isinstance(row, Row)]


WORDS = [
    "NA",
    "null",
    "None",
    "nan",
    "NaN",
    "N/A",
    "#N/A",
    "<NA>",
    "",
    "n/a",
    "-inf",
    "1e5",
    "TRUE",
    "007",
    "2020-01-01",
]


def test_a_folder_of_plain_files_gives_the_rows_of_kind_files(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    lines = "".join(f"text {n},{word},{n:03d}\n" for n, word in enumerate(WORDS))
    (tmp_path / "csv" / "train.csv").write_text(f"text,label,id\n{lines}")
    rows: list[dict[str, Any]] = [{"text": f"t{n}", "label": word, "id": f"{n:03d}"} for n, word in enumerate(WORDS)]
    rows += [{"text": "nested", "label": None, "more": [1, {"a": 1.0, "b": None}], "when": "2020-01-01T00:00:00Z"}]
    write_jsonl(tmp_path / "jsonl" / "train.jsonl", rows)
    for folder in ("csv", "jsonl"):
        ours = read_files(tmp_path / folder)
        found = list(
            HuggingFace(path=str(tmp_path / folder)).read(HuggingFace(path=str(tmp_path / folder)).pin(), 10_000)
        )
        assert found == ours
    assert [row.values["label"] for row in read_files(tmp_path / "csv")] == [word or None for word in WORDS]


def test_other_spellings_of_the_same_rows_keep_their_words_too(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": word or None, "id": f"{n:03d}"} for n, word in enumerate(WORDS)]
    lines = ["\t".join(str(cell or "") for cell in row.values()) for row in rows]
    semicolons = [line.replace("\t", ";") for line in lines]
    card = "---\nconfigs:\n- config_name: default\n  data_files: train.csv\n  sep: '%s'\n%s---\n"
    typed = "dataset_info:\n  features:\n" + "".join(
        f"  - name: {name}\n    dtype: string\n" for name in ("text", "label", "id")
    )
    spellings = {
        "tsv/train.tsv": "\n".join(["text\tlabel\tid", *lines]),
        "list/train.json": json.dumps(rows, indent=1),
        "lines/train.json": "\n".join(map(json.dumps, rows)),
        "sep/train.csv": "\n".join(["text;label;id", *semicolons]),
        "sep/README.md": card % (";", ""),
        "odd/train.csv": "\n".join(["# made by hand", "text;label;id", *semicolons]),
        "odd/README.md": card % (";", "  skiprows: 1\n"),
        "typed/train.csv": "\n".join(["text,label,id", *(line.replace("\t", ",") for line in lines)]),
        "typed/README.md": card % (",", typed),
    }
    for name, text in spellings.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "gz").mkdir()
    (tmp_path / "gz" / "train.tsv.gz").write_bytes(gzip.compress(spellings["tsv/train.tsv"].encode()))
    for folder in ("tsv", "list", "lines", "sep", "odd", "typed", "gz"):
        assert values(HuggingFace(path=str(tmp_path / folder))) == rows, folder


def test_the_features_of_a_card_say_what_a_csv_means(tmp_path: Path) -> None:
    label = "  - name: label\n    dtype:\n      class_label:\n        names: {'0': ham, '1': spam}\n"
    number = "  - name: n\n    dtype: int64\n"
    (tmp_path / "README.md").write_text(f"---\ndataset_info:\n  features:\n{label}{number}---\n")
    (tmp_path / "train.csv").write_text("label,n\n1,007\nham,\n,8\n")
    assert values(HuggingFace(path=str(tmp_path))) == [
        {"label": "spam", "n": 7}, {"label": "ham", "n": None}, {"label": None, "n": 8}
    ]  # fmt: skip


def test_the_files_of_the_hub_are_read_by_the_same_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.csv").write_text("text,label\na,NA\nb,007\n")
    made = datasets.load_dataset_builder(str(tmp_path / "hub"))
    hub = f"hf://datasets/someone/rows@{COMMIT}"
    made.config.data_files = {"train": [f"{hub}/train.csv"]}  # type: ignore[assignment]
    asked: list[str] = []

    class FileSystem:
        def get_file(self, name: str, target: str) -> None:
            asked.append(name)
            shutil.copy(tmp_path / "hub" / "train.csv", target)

    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: made)
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", FileSystem)
    source = HuggingFace(path="someone/rows", revision=COMMIT)
    found = list(source.read(source.pin(), 1000))
    assert [(row.uri, row.line, row.values) for row in found if isinstance(row, Row)] == [
        (f"{hub}/train.csv", 2, {"text": "a", "label": "NA"}), (f"{hub}/train.csv", 3, {"text": "b", "label": "007"})
    ]  # fmt: skip
    assert asked == [f"{hub}/train.csv"]


@pytest.mark.parametrize("name", ["data [v1]", "50%20*", "é {a,b}"])
@pytest.mark.parametrize("kind", ["csv", "saved"])
def test_a_linked_folder_and_one_with_brackets_are_read_as_they_are(tmp_path: Path, name: str, kind: str) -> None:
    for n, folder in enumerate(("store", "data v")):
        if kind == "csv":
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "train.csv").write_text(f"text,n\na,{n}\n")
        else:
            Dataset.from_dict({"text": ["a"], "n": [str(n)]}).save_to_disk(tmp_path / folder)
    (tmp_path / name).mkdir()
    if kind == "csv":
        os.symlink("../store", tmp_path / name / "data")
    else:
        for path in (tmp_path / "store").iterdir():
            os.symlink(f"../store/{path.name}", tmp_path / name / path.name)
    source = HuggingFace(path=str(tmp_path / name))
    assert values(source) == [{"text": "a", "n": "0"}]
    pinned = source.pin()
    for path in (tmp_path / "store").iterdir():
        if path.suffix in (".csv", ".arrow"):
            path.write_bytes(path.read_bytes() + b" ")
    assert source.pin() != pinned
    os.symlink("gone", tmp_path / name / "more")
    with pytest.raises(DataError, match="more is a link to gone, which is not there"):
        source.pin()


def test_what_datasets_would_pass_over_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", tiny_rows(2))
    write_jsonl(tmp_path / "extra.jsonl", tiny_rows(2))
    with pytest.raises(DataError, match=r"reads train here and leaves out extra\.jsonl; move them away"):
        values(HuggingFace(path=str(tmp_path)))


def test_a_column_of_bytes_can_be_dropped(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"text": ["a"], "thumb": [b"\xff"], "until": pa.array([2_932_897], pa.int32()).view(pa.date32())})
    Dataset(table).save_to_disk(tmp_path / "saved")
    (tmp_path / "plain").mkdir()
    parquet.write_table(table, tmp_path / "plain" / "train.parquet")
    for folder in ("saved", "plain"):
        source = HuggingFace(path=str(tmp_path / folder))
        (bad,) = source.read(source.pin(), 1000)
        assert isinstance(bad, BadRow)
        assert (bad.reason, bad.column) == ("binary_value", "thumb")
        kept = source.model_copy(update={"drop_columns": ("thumb",)})
        assert values(kept) == [{"text": "a", "until": "10000-01-01"}]
