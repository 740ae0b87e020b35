"""One value in the spellings of several file types, through ingestion and preparation: counted by hand."""

from __future__ import annotations

import csv
import datetime
import decimal
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from ftlib.config import Split
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import SPLITS, split_file
from ftlib.kinds.heads.labels import LabelTargets
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.testing import tiny_classifier, tiny_rows, write_jsonl
from ftlib.workspace import Workspace

TEXTS = [str(row["text"]) for row in tiny_rows(400)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FoundModel:
    return find_model(ModelRef(path=str(tiny_classifier(tmp_path_factory.mktemp("model"), ["False", "True"]))))


class Folder:
    """A folder of files in which rows arrive, each with another text."""

    def __init__(self, path: Path, model: FoundModel) -> None:
        self.path, self.model, self.texts = path / "rows", model, iter(TEXTS)
        self.path.mkdir()

    def jsonl(self, *rows: dict[str, Any]) -> None:
        write_jsonl(self.path / f"{len(list(self.path.iterdir()))}.jsonl", [self._row(row) for row in rows])

    def csv(self, *rows: dict[str, Any]) -> None:
        with (self.path / f"{len(list(self.path.iterdir()))}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, ["text", *rows[0]])
            writer.writeheader()
            writer.writerows(self._row(row) for row in rows)

    def parquet(self, **columns: pa.Array) -> None:
        texts = [next(self.texts) for _ in next(iter(columns.values()))]
        table = pa.table({"text": texts, **columns})
        parquet.write_table(table, self.path / f"{len(list(self.path.iterdir()))}.parquet")

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"text": next(self.texts), **row}

    def prepare(self, **fields: Any) -> PreparedDataset:
        form = {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 32}
        spec = {"source": {"kind": "files", "path": f"{self.path}/"}, "format": form, "limits": {"rows": 1}, **fields}
        dataset, work = Dataset.model_validate(spec), Workspace(self.path.parent / "work")
        pins = dataset.source.pin()
        raw = ingest(IngestJob(name="d", source=dataset.source, files=pins, limits=dataset.limits), work)
        tokenizer = self.model.tokenizer
        job = PreprocessJob(
            name="d", raw=raw, dataset=dataset, model=self.model, tokenizer=tokenizer, trains=dataset.split.test < 1
        )
        return preprocess(job, work)


@pytest.fixture
def folder(tmp_path: Path, model: FoundModel) -> Folder:
    return Folder(tmp_path, model)


def rows_of(prepared: PreparedDataset) -> list[tuple[Split, dict[str, Any]]]:
    tables = {s: pa.ipc.open_file(pa.memory_map(str(split_file(prepared.path, s)))).read_all() for s in SPLITS}
    return [(split, row) for split, table in tables.items() for row in table.to_pylist()]


def test_a_label_in_two_spellings_is_one_and_the_most_frequent_is_published(folder: Folder) -> None:
    folder.jsonl(*({"label": bool(i % 2)} for i in range(20)))
    folder.csv(*({"label": ("False", "TRUE")[i % 2]} for i in range(40)))
    folder.csv(*({"label": ("fal\u00adse", " true")[i % 2]} for i in range(6)))
    prepared = folder.prepare()
    assert prepared.labels == ("False", "TRUE")
    assert prepared.spellings == {
        "False": {"False": 20, "fal\u00adse": 3, "false": 10},
        "TRUE": {"TRUE": 20, "true": 13},
    }
    counts = sum((Counter(facts.labels) for facts in prepared.splits.values()), Counter[str]())
    assert counts == {"False": 33, "TRUE": 33}
    assert Counter(row["target"] for _, row in rows_of(prepared)) == counts
    for labels in (("False", "true"), ("false", "True")):  # those of a model from elsewhere
        targets = open_split(split_file(prepared.path, "train"), labels).targets
        assert isinstance(targets, LabelTargets)
        expected = [labels[row["target"] == "TRUE"] for split, row in rows_of(prepared) if split == "train"]
        assert [labels[i] for i in targets.positions] == expected


def test_labels_that_do_not_meet_stay_as_they_are_written(folder: Folder) -> None:
    folder.csv(*({"label": ("007", "True", "7.0", "Bug", "bug")[i % 5]} for i in range(50)))
    prepared = folder.prepare()
    assert (prepared.labels, prepared.spellings) == (("007", "7.0", "Bug", "True", "bug"), {})


def test_no_group_is_on_two_sides_whichever_file_spells_it(folder: Folder) -> None:
    """The groups 0 to 29, the days of a month and 2^53 + 1 to 4, each in every file type."""
    ids, labels = [*range(30)], pa.array(["a", "b"] * 15)
    folder.jsonl(*({"label": "a", "group": i} for i in ids))
    folder.csv(*({"label": "b", "group": f"{i}.0" if i % 2 else f" {i:03d}"} for i in ids))
    folder.parquet(label=labels, group=pa.array(ids, pa.int64()))
    folder.parquet(label=pa.array(["a"] * 31), group=pa.array([*map(float, ids), None], pa.float64()))
    folder.parquet(label=labels, group=pa.array([decimal.Decimal(f"{i}.00") for i in ids]))
    folder.parquet(label=labels, group=pa.array([f"{i}\u200b" for i in ids]).dictionary_encode())
    days = [datetime.date(2026, 1, i + 1) for i in ids]
    moments = [datetime.datetime(2026, 1, i + 1) for i in ids]
    folder.parquet(label=labels, group=pa.array(days))
    folder.parquet(label=labels, group=pa.array(moments, pa.timestamp("us")))
    folder.parquet(label=labels, group=pa.array(moments, pa.timestamp("ms", "UTC")))
    folder.csv(*({"label": "a", "group": f"{day} 00:00:00"} for day in days))
    large = [2**53 + i for i in range(1, 5)]
    folder.jsonl(*({"label": "a", "group": i} for i in large))
    folder.parquet(label=pa.array(["b"] * 4), group=pa.array([*map(float, large)]))
    prepared = folder.prepare(
        format={"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 32, "slices": ["group"]},
        split={"by": "group", "column": "group", "validation": 0.3, "test": 0.3},
    )
    assert prepared.ledger.dropped == {"no_split_value": 1}
    sides: defaultdict[str, set[Split]] = defaultdict(set)
    for split, row in rows_of(prepared):
        value = row["slice:group"]
        sides[str(int(value)) if value.isdecimal() and len(value) < 4 else value].add(split)
    assert {str(i) for i in ids} | {str(day) for day in days} <= {*sides}
    assert {len(side) for side in sides.values()} == {1}
    assert set().union(*sides.values()) == {*SPLITS}
    as_floats: defaultdict[float, set[Split]] = defaultdict(set)
    for value, side in sides.items():
        if value.isdecimal() and len(value) > 4:
            as_floats[float(value)] |= side
    assert {len(side) for side in as_floats.values()} == {1}


def test_copies_that_differ_in_what_nobody_sees_do_not_leak(folder: Folder) -> None:
    texts = [f"the printer on the {i}. floor says that it has no paper although there is plenty" for i in range(4)]
    hidden = [texts[0].replace("printer", "prin\u00adter"), f"\u200e{texts[1]}\u200b", texts[2].replace(" ", "\u00a0")]
    rows = [{"text": text, "label": "bug", "side": "test"} for text in texts]
    rows += [{"text": text, "label": "sales", "side": "\u200bTrain"} for text in hidden]
    rows += [{"text": texts[3].replace("paper", "pa\u2060per") + " now", "label": "bug", "side": "train"}]
    folder.jsonl(*rows, *({"label": "ab"[i % 2], "side": "train"} for i in range(20)))
    prepared = folder.prepare(
        split={"by": "given", "column": "side"}, cleaning={"near_duplicates": 0.8, "deduplicate": True}
    )
    assert prepared.ledger.dropped == {"leaked": 3, "near_leaked": 1}


def test_copies_whose_labels_are_one_do_not_contradict(folder: Folder) -> None:
    folder.jsonl(*({"label": "ab"[i % 2]} for i in range(20)))
    folder.jsonl({"text": "one text", "label": True}, {"text": "one te\u200bxt", "label": "True"})
    folder.jsonl({"text": "two texts", "label": "7"}, {"text": "two texts", "label": "007"})
    assert folder.prepare().ledger.dropped == {"duplicate": 1, "conflicting_labels": 2}


def test_labels_of_lists_are_one_too(folder: Folder) -> None:
    form = {"kind": "multi_label_text", "text": "text", "labels": "tags", "max_tokens": 32}
    folder.jsonl(*({"tags": [True, "bug"]} for _ in range(9)), *({"tags": ["True", 7, "7.0"]} for _ in range(10)))
    prepared = folder.prepare(format=form)
    assert prepared.labels == ("7", "True", "bug")
    assert prepared.spellings == {"True": {"True": 10, "true": 9}}
    assert {tuple(sorted(row["target"])) for _, row in rows_of(prepared)} == {("True", "bug"), ("7", "True")}


def test_a_head_for_the_same_labels_is_kept_however_they_are_spelt(model: FoundModel, tmp_path: Path) -> None:
    job = BaseJob(model=model, kind="labeled", labels=("false", "true"), seed=0)
    kept = base(job, Workspace(tmp_path))
    assert (kept.labels, kept.fresh_head) == (("False", "True"), False)
    assert base(job.model_copy(update={"labels": ("no", "yes")}), Workspace(tmp_path)).fresh_head
