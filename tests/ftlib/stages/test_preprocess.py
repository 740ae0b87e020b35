from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from ftlib.config import Split
from ftlib.data.assignment import profile_rows
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.prepared import SPLITS, split_file
from ftlib.data.profile import profile
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import Guard, PreprocessJob, preprocess
from ftlib.testing import (
    tiny_causal_lm,
    tiny_classifier,
    tiny_multi_label_rows,
    tiny_rows,
    tiny_scored_rows,
    write_jsonl,
)
from ftlib.workspace import Workspace

LABELED: dict[str, Any] = {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 32}
PLAIN: dict[str, Any] = {"kind": "plain_text", "text": "text", "max_tokens": 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> FoundModel:
    return find_model(ModelRef(path=str(tiny_classifier(tmp_path_factory.mktemp("model")))))


class Bench:
    """Rows in, prepared dataset out, in a workspace of its own."""

    def __init__(self, folder: Path, model: FoundModel) -> None:
        self.folder, self.model, self.work = folder, model, Workspace(folder / "work")

    def dataset(self, rows: list[dict[str, Any]], name: str = "mail", **fields: Any) -> tuple[RawDataset, Dataset]:
        path = write_jsonl(self.folder / f"{name}.jsonl", rows)
        given = {"source": {"kind": "files", "path": str(path)}, "format": LABELED, "limits": {"rows": 1}, **fields}
        dataset = Dataset.model_validate(given)
        job = IngestJob(name=name, source=dataset.source, files=dataset.source.pin(), limits=dataset.limits)
        return ingest(job, self.work), dataset

    def prepare(
        self, rows: list[dict[str, Any]], *, guards: tuple[Guard, ...] = (), trains: bool = True, **fields: Any
    ) -> PreparedDataset:
        raw, dataset = self.dataset(rows, **fields)
        job = PreprocessJob(
            name="mail",
            raw=raw,
            dataset=dataset,
            model=self.model,
            tokenizer=self.model.tokenizer,
            guards=guards,
            trains=trains,
        )
        return preprocess(job, self.work)


@pytest.fixture
def bench(tmp_path: Path, model: FoundModel) -> Bench:
    return Bench(tmp_path, model)


def table(prepared: PreparedDataset, split: Split) -> list[dict[str, Any]]:
    return pa.ipc.open_file(pa.memory_map(str(split_file(prepared.path, split)))).read_all().to_pylist()


def ids_by_row(prepared: PreparedDataset) -> dict[str, Split]:
    return {row["row_id"]: split for split in SPLITS for row in table(prepared, split)}


def test_the_ids_are_those_of_stock_transformers(bench: Bench) -> None:
    rows = tiny_rows(60)
    prepared = bench.prepare(rows, format={**LABELED, "slices": ["group"]})
    tokenizer = AutoTokenizer.from_pretrained(bench.model.uri)
    expected = {
        (tuple(tokenizer(row["text"], truncation=True, max_length=32)["input_ids"]), row["label"]) for row in rows
    }
    written = [row for split in SPLITS for row in table(prepared, split)]
    assert {(tuple(row["input_ids"]), row["target"]) for row in written} == expected
    assert {row["slice:group"] for row in written} == {row["group"] for row in rows}
    assert prepared.tokenizer == bench.model.tokenizer


def test_the_facts_are_what_the_files_hold(bench: Bench) -> None:
    prepared = bench.prepare(tiny_rows(90), format={**LABELED, "max_tokens": 14})
    for split in SPLITS:
        rows, facts = table(prepared, split), prepared.splits[split]
        lengths = [len(row["input_ids"]) for row in rows]
        assert (facts.rows, facts.tokens, facts.longest) == (len(rows), sum(lengths), max(lengths))
        assert facts.supervised == facts.rows
        assert facts.truncated == facts.rows
        assert facts.labels == Counter(row["target"] for row in rows)
    assert prepared.labels == ("billing", "bug", "sales")
    assert sum(prepared.splits[split].rows for split in SPLITS) == prepared.ledger.kept == 90


def test_the_profile_is_that_of_the_training_rows(bench: Bench) -> None:
    rows = tiny_rows(90)
    raw, dataset = bench.dataset(rows, format={**LABELED, "slices": ["group"]}, split={"by": "given", "column": "side"})
    prepared = bench.prepare(
        [{**row, "side": "train" if i < 60 else "test"} for i, row in enumerate(rows)],
        format={**LABELED, "slices": ["group"]},
        split={"by": "given", "column": "side"},
    )
    expected = profile(((str(r["text"]), str(r["label"]), (str(r["group"]),)) for r in rows[:60]), slices=("group",))
    assert prepared.profile == expected
    assert profile_rows(raw, dataset).labels == Counter(row["label"] for row in rows)
    assert profile_rows(raw, dataset, {0}) == profile_rows(raw, dataset)
    assert profile_rows(raw, dataset, {1}).rows == 0


def test_what_it_writes_is_what_training_reads(bench: Bench) -> None:
    prepared = bench.prepare(tiny_rows(60))
    split = open_split(split_file(prepared.path, "train"), prepared.labels)
    rows = table(prepared, "train")
    assert [list(split.tokens(i)) for i in range(len(split))] == [row["input_ids"] for row in rows]
    absent = open_split(split_file(bench.prepare(tiny_rows(60), split={"test": 0}).path, "test"), prepared.labels)
    assert len(absent) == 0


def test_copies_and_contradictions_are_dropped_and_counted(bench: Bench) -> None:
    rows = tiny_rows(30)
    text = str(rows[0]["text"])
    rows += [
        {"text": f"  {text.upper()} ", "label": rows[0]["label"]},
        {"text": "the same words", "label": "bug"},
        {"text": "The same  words", "label": "sales"},
        {"text": " \u0000\n", "label": "bug"},
        {"text": "no label"},
        {"text": 7, "label": "bug"},
    ]
    prepared = bench.prepare(rows)
    assert prepared.ledger.rows_in == 36
    assert prepared.ledger.dropped == {
        "conflicting_labels": 2,
        "duplicate": 1,
        "empty_text": 1,
        "missing_label": 1,
        "text_not_a_string": 1,
    }
    assert prepared.ledger.kept == 30
    kept = bench.prepare(rows, cleaning={"deduplicate": False, "min_characters": 15})
    expected = {"empty_text": 1, "missing_label": 1, "text_not_a_string": 1, "too_short": 2}
    assert kept.ledger.dropped == expected  # "the same words" has 14 characters, with two blanks too: they are folded


def test_the_order_of_rows_decides_nothing_but_their_order(bench: Bench) -> None:
    rows = [*tiny_rows(40), *({**row, "text": str(row["text"]).upper(), "copy": True} for row in tiny_rows(40))]
    one, two = bench.prepare(rows), bench.prepare(rows[::-1])
    assert ids_by_row(one) == ids_by_row(two)


def test_rows_keep_their_split_when_others_arrive(bench: Bench) -> None:
    before, after = (
        ids_by_row(bench.prepare(tiny_rows(60))),
        ids_by_row(bench.prepare([*tiny_rows(60, seed=1), *tiny_rows(60)])),
    )
    assert before.items() <= after.items()


def test_a_text_held_out_elsewhere_never_trains(bench: Bench) -> None:
    rows, shifted = tiny_rows(60), tiny_rows(20, seed=9)
    guard_rows = [*shifted, *({"text": str(row["text"]).title(), "label": "bug"} for row in rows[:30])]
    raw, dataset = bench.dataset(guard_rows, name="shifted", split={"validation": 0.5, "test": 0.5})
    alone = bench.prepare(rows)
    guarded = bench.prepare(rows, guards=(Guard(raw=raw, dataset=dataset),))
    unseen = {unicodedata.normalize("NFC", str(row["text"])).casefold() for row in rows[:30]}
    by_text = {tuple(AutoTokenizer.from_pretrained(bench.model.uri)(text)["input_ids"]) for text in unseen}
    leaked = [row for row in table(alone, "train") if tuple(row["input_ids"]) in by_text]
    assert guarded.leaked == len(leaked) > 0
    assert guarded.ledger.dropped == {"leaked": len(leaked)}
    assert not [row for row in table(guarded, "train") if tuple(row["input_ids"]) in by_text]
    for split in ("validation", "test"):
        assert table(guarded, split) == table(alone, split)


def test_a_held_out_copy_beats_the_training_row(bench: Bench) -> None:
    rows = [{**row, "side": "train"} for row in tiny_rows(30)] + [{**row, "side": "test"} for row in tiny_rows(6)]
    rows += [{**row, "side": "test", "label": "sales"} for row in tiny_rows(9)[6:]]
    prepared = bench.prepare(rows, split={"by": "given", "column": "side"})
    assert prepared.splits["test"].rows == 9
    assert prepared.splits["train"].rows == 21
    assert prepared.leaked == 9


def test_texts_that_are_nearly_held_out_never_train(bench: Bench) -> None:
    rows, elsewhere = tiny_rows(60), tiny_rows(20, seed=9)
    long = "the printer on the second floor says that it has no paper although there is plenty of it, number "
    rows += [{"text": f"{long}{i}", "label": "bug", "side": "train"} for i in range(100, 103)]
    rows += [{"text": f"{elsewhere[0]['text']}!", "label": "sales"}]
    rows = [{"side": "train", **row} for row in rows]
    rows += [{"text": f"{long}104", "label": "bug", "side": "test"}]
    split = {"by": "given", "column": "side"}
    raw, dataset = bench.dataset(elsewhere, name="shifted", split={"validation": 0.5, "test": 0.5})
    guards = (Guard(raw=raw, dataset=dataset),)
    off = bench.prepare(rows, guards=guards, split=split)
    near = bench.prepare(rows, guards=guards, split=split, cleaning={"near_duplicates": 0.8})
    assert off.ledger.dropped == {}
    assert near.ledger.dropped == {"near_leaked": 4}
    assert near.leaked == 4
    assert near.splits["test"].rows == 1
    assert near.splits["train"].rows == off.splits["train"].rows - 4


def test_of_near_copies_one_trains(bench: Bench) -> None:
    long = "the printer on the second floor says that it has no paper although there is plenty of it, number "
    copies = [{"text": f"{long}{i}", "label": "bug"} for i in range(100, 106)]
    rows = [*tiny_rows(60), *copies, {"text": f"{long}107", "label": "sales"}]
    rows = [{"side": "train", **row} for row in rows]
    split, cleaning = {"by": "given", "column": "side"}, {"near_duplicates": 0.8}
    prepared = bench.prepare(rows, split=split, cleaning=cleaning)
    assert prepared.ledger.dropped == {"near_duplicate": 5}
    assert ids_by_row(prepared) == ids_by_row(bench.prepare(rows[::-1], split=split, cleaning=cleaning))


def test_more_copies_than_allowed_and_labels_with_too_few_rows(bench: Bench) -> None:
    rows = [*tiny_rows(30), *tiny_rows(30)]
    with pytest.raises(DataError, match=r"datasets\.mail: 30 of 60 rows \(50.0%\) are copies of others, allowed 40.0%"):
        bench.prepare(rows, limits={"rows": 1, "duplicate_rows": 0.4})
    rows = [{"side": "train", **row} for row in [*tiny_rows(30), {"text": "one of a kind", "label": "praise"}]]
    split = {"by": "given", "column": "side"}
    assert bench.prepare(rows, split=split).splits["train"].labels["praise"] == 1
    with pytest.raises(DataError, match=r"labels with fewer than 2 training rows: 'praise' has 1; add rows, map"):
        bench.prepare(rows, split=split, limits={"rows": 1, "rows_per_label": 2})


def test_too_many_dropped_rows_fail_with_reasons_and_remedy(bench: Bench) -> None:
    rows = [*tiny_rows(12), *tiny_rows(12)]
    assert bench.prepare(rows, limits={"rows": 1, "dropped_rows": 0.5}).ledger.dropped == {"duplicate": 12}
    with pytest.raises(DataError, match=r"12 of 24 rows \(50.0%\) were dropped, allowed 40.0%: 12 duplicate; .*raise"):
        bench.prepare(rows, limits={"rows": 1, "dropped_rows": 0.4})


@pytest.mark.parametrize(
    ("spoilt", "reason", "remedy"),
    [
        ({"label": ["bug"]}, "label_not_a_name", "multi_label_text"),
        ({"label": {"name": "bug"}}, "label_not_a_name", "a column of its own"),
        ({"label": 0.5}, "label_not_a_name", "scored_text"),
        ({"label": '["bug"]'}, "list_as_text", "jsonl or parquet"),
        ({"text": ["a"]}, "text_not_a_string", "write text"),
        ({"text": f"data:image/png;base64,{'iVBO' * 9}"}, "image_as_text", "labeled_image"),
    ],
)
def test_a_reason_that_says_little_comes_with_its_remedy(
    bench: Bench, spoilt: dict[str, Any], reason: str, remedy: str
) -> None:
    rows = [*tiny_rows(12), *({**row, **spoilt} for row in tiny_rows(20)[12:])]
    assert bench.prepare(rows, limits={"rows": 1}).ledger.dropped == {reason: 8}
    with pytest.raises(DataError, match=rf"8 of 20 rows .*: 8 {reason} \(.*{remedy}.*\); correct the rows or raise"):
        bench.prepare(rows, limits={"rows": 1, "dropped_rows": 0.1})
    with pytest.raises(DataError, match=rf"12 of 12 rows .*: 12 {reason} \(.*\); correct the rows$"):
        bench.prepare([{**row, **spoilt} for row in tiny_rows(12)], limits={"rows": 1})


def test_an_absent_column_names_those_there_are(bench: Bench) -> None:
    rows = tiny_rows(12)
    with pytest.raises(DataError, match=r"datasets\.mail\.format: no column 'labl' .* did you mean 'label'\?"):
        bench.prepare(rows, format={**LABELED, "label": "labl"})
    with pytest.raises(DataError, match=r"no column 'region' in the rows; the columns are day, group, label, text"):
        bench.prepare(rows, format={**LABELED, "slices": ["region"]})
    with pytest.raises(DataError, match=r"datasets\.mail\.split: no column 'grp'"):
        bench.prepare(rows, split={"by": "group", "column": "grp"})


def test_one_class_only_and_nothing_to_train_on(bench: Bench) -> None:
    one = [row for row in tiny_rows(60) if row["label"] == "bug"]
    with pytest.raises(DataError, match="have the label 'bug'; a classifier needs at least two"):
        bench.prepare(one)
    assert bench.prepare(one, trains=False).labels == ("bug",)
    with pytest.raises(DataError, match="the train split has no rows to learn from"):
        bench.prepare([{**row, "side": "test"} for row in tiny_rows(12)], split={"by": "given", "column": "side"})


def test_more_tokens_than_the_model_reads(bench: Bench) -> None:
    with pytest.raises(RecipeError, match=r"datasets\.mail\.format\.max_tokens: 129, but .* reads at most 128"):
        bench.prepare(tiny_rows(12), format={**LABELED, "max_tokens": 129})


def test_a_model_without_a_tokenizer_fails_before_anything_is_written(tmp_path: Path, model: FoundModel) -> None:
    folder = tmp_path / "model"
    tiny_classifier(folder)
    found = find_model(ModelRef(path=str(folder)))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    bench = Bench(tmp_path, found)
    with pytest.raises(ModelError, match="tokenizer files changed or vanished"):
        bench.prepare(tiny_rows(12))
    assert not list((tmp_path / "work" / "stages" / "preprocess").glob("*/artifact.json"))


def test_plain_text_keeps_every_token(tmp_path: Path) -> None:
    bench = Bench(tmp_path, find_model(ModelRef(path=str(tiny_causal_lm(tmp_path / "lm")))))
    rows = [{"text": "\n".join([str(row["text"])] * 3) + f" {i}"} for i, row in enumerate(tiny_rows(20))]
    prepared = bench.prepare(rows, format=PLAIN)
    tokenizer = AutoTokenizer.from_pretrained(bench.model.uri)
    targets = sum(len(tokenizer(row["text"])["input_ids"]) - 1 for row in rows)
    assert prepared.kind == "tokens"
    assert prepared.labels == ()
    assert sum(facts.supervised for facts in prepared.splits.values()) == targets
    assert prepared.ledger.kept == 20 < sum(facts.rows for facts in prepared.splits.values())
    assert all(facts.longest <= 16 and facts.truncated == 0 for facts in prepared.splits.values())
    assert len(ids_by_row(prepared)) == sum(facts.rows for facts in prepared.splits.values())


def test_the_content_follows_ids_and_labels_and_nothing_else(bench: Bench, tmp_path: Path) -> None:
    rows = tiny_rows(30)
    content = bench.prepare(rows).content
    assert bench.prepare(rows, limits={"rows": 2}).content == content  # another job, the same bytes
    assert bench.prepare(rows, format={**LABELED, "max_tokens": 8}).content != content
    flipped = [{**row, "label": "bug" if row["label"] == "sales" else row["label"]} for row in rows]
    assert bench.prepare(flipped).content != content


MULTI: dict[str, Any] = {"kind": "multi_label_text", "text": "text", "labels": "labels", "max_tokens": 32}
SCORED: dict[str, Any] = {"kind": "scored_text", "text": "text", "score": "score", "max_tokens": 32}


def test_rows_with_any_number_of_labels_are_counted_by_label_and_kept_without_one(bench: Bench) -> None:
    rows = tiny_multi_label_rows(64)
    prepared = bench.prepare([*rows, {"text": "no list at all"}], format=MULTI)
    written = [row for split in SPLITS for row in table(prepared, split)]
    assert sorted(tuple(row["target"]) for row in written) == sorted(tuple(sorted(row["labels"])) for row in rows)
    assert () in {tuple(row["target"]) for row in written}
    assert prepared.kind == "multi_labeled"
    assert prepared.labels == ("billing", "bug", "sales")
    assert prepared.ledger.dropped == {"missing_label": 1}
    for split in SPLITS:
        named = Counter(label for row in table(prepared, split) for label in row["target"])
        assert prepared.splits[split].labels == named
        assert prepared.splits[split].supervised == prepared.splits[split].rows
    assert prepared.profile.labels == prepared.splits["train"].labels


def test_stratified_keeps_every_set_of_labels_in_proportion(bench: Bench) -> None:
    prepared = bench.prepare(
        tiny_multi_label_rows(160), format=MULTI, split={"by": "stratified", "validation": 0.25, "test": 0.25}
    )
    for split in ("validation", "test"):
        assert Counter(tuple(row["target"]) for row in table(prepared, split)) == dict.fromkeys(
            {tuple(row["target"]) for row in table(prepared, "train")}, 5
        )


def test_copies_with_other_labels_or_scores_contradict_each_other(bench: Bench) -> None:
    several = [{"text": "one", "labels": ["a", "b"]}, {"text": "ONE", "labels": ["b", "a"]}]
    several += [{"text": "two", "labels": ["a"]}, {"text": "two", "labels": []}]
    more = tiny_multi_label_rows(40)
    assert bench.prepare([*more, *several], format=MULTI).ledger.dropped == {"conflicting_labels": 2, "duplicate": 1}
    numbers = [{"text": "one", "score": 1}, {"text": "one", "score": 1.0}, {"text": "two", "score": 1}]
    numbers += [{"text": "two", "score": 2}]
    prepared = bench.prepare([*tiny_scored_rows(40), *numbers], format=SCORED)
    assert prepared.ledger.dropped == {"conflicting_labels": 2, "duplicate": 1}


def test_scores_are_kept_as_they_are_and_are_no_labels(bench: Bench) -> None:
    rows = tiny_scored_rows(60)
    prepared = bench.prepare([*rows, {"text": "how much?", "score": "much"}], format=SCORED)
    written = [row for split in SPLITS for row in table(prepared, split)]
    assert sorted(row["target"] for row in written) == sorted(row["score"] for row in rows)
    assert prepared.kind == "scored"
    assert prepared.labels == ()
    assert prepared.profile.labels == {}
    assert prepared.ledger.dropped == {"score_not_a_number": 1}


def test_rows_none_of_which_has_a_label_are_an_error(bench: Bench) -> None:
    rows = [{**row, "labels": []} for row in tiny_multi_label_rows(40)]
    with pytest.raises(DataError, match=r"datasets\.mail: none of the \d+ training rows has a label"):
        bench.prepare(rows, format=MULTI)


def test_one_label_that_rows_have_or_have_not_is_enough(bench: Bench) -> None:
    prepared = bench.prepare(tiny_multi_label_rows(40, ("bug",)), format=MULTI)
    assert prepared.labels == ("bug",)
    assert 0 < prepared.splits["train"].labels["bug"] < prepared.splits["train"].rows
