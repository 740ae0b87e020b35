"""Where rows go through histories of edits: what was evaluated once is never trained on."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.dataset import Dataset
from ftlib.data.datasets import Ledger, RawDataset
from ftlib.data.passes.exchange import exchange_in
from ftlib.data.passes.executor import InProcess
from ftlib.data.passes.placing import Placing, drop_leaked, place
from ftlib.data.rows import Checked, Row, check_values
from ftlib.data.snapshot import read_snapshot, write_snapshot


def dataset(**split: Any) -> Dataset:
    return Dataset.model_validate(
        {
            "source": {"kind": "files", "path": "rows/"},
            "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 8},
            "key": "id",
            "split": {"validation": 0.25, "test": 0.25, **split},
        }
    )


class Assigned:
    """Where rows are before and after leaks are looked for, by the rows' own names."""

    def __init__(self, folder: Path, values: list[dict[str, Any]], spec: Dataset) -> None:
        checked = [check_values(Row("f", i, 0, row), 1000) for i, row in enumerate(values)]
        snapshot = write_snapshot(folder / "rows.parquet", [row for row in checked if isinstance(row, Checked)])
        ledger = Ledger(rows_in=0, kept=0)
        raw = RawDataset(content=snapshot.content, columns=snapshot.columns, files=(), ledger=ledger, uri=str(folder))
        keys = [str(values["id"]) for _, values in read_snapshot(folder / "rows.parquet")]
        with exchange_in(folder) as exchange:
            placing = Placing.of("own", raw, spec, exchange, least=1 << 20)
            placement, kept = place(placing, "datasets.d", InProcess(), parts=3)
            self.before = dict(zip(keys, placement.places(0, placement.rows), strict=True))
            drop_leaked((placing, placement, kept), [], InProcess())
        self.after = dict(zip(keys, placement.places(0, placement.rows), strict=True))
        self.dropped = placement.dropped()


def places(folder: Path, rows: dict[int, str], spec: Dataset) -> dict[str, str]:
    values = [{"id": key, "group": key // 2, "text": text, "label": "l"} for key, text in rows.items()]
    return Assigned(folder, values, spec).after


edit = st.tuples(st.integers(0, 11), st.sampled_from(["one", "two", "three", "One ", "four words of text"]))


@pytest.mark.parametrize("split", [{}, {"by": "group", "column": "group"}])
@given(st.lists(st.lists(edit, min_size=1, max_size=6), min_size=1, max_size=5))
@settings(max_examples=30)
def test_a_row_that_was_evaluated_is_never_trained_on(
    tmp_path_factory: pytest.TempPathFactory, split: dict[str, str], history: list[list[tuple[int, str]]]
) -> None:
    folder, spec = tmp_path_factory.mktemp("history"), dataset(**split)
    rows: dict[int, str] = {}
    sides: dict[str, str] = {}
    for edits in history:
        rows |= dict(edits)
        now = places(folder, rows, spec)
        for key, side in now.items():
            if side in ("train", "validation", "test"):
                assert sides.setdefault(key, side) == side
        held_out = {rows[int(key)].casefold().strip() for key, place in now.items() if place in ("validation", "test")}
        assert held_out.isdisjoint(rows[int(k)].casefold().strip() for k, place in now.items() if place == "train")


SPLITS: list[dict[str, str]] = [
    {"by": "random"},
    {"by": "stratified"},
    {"by": "group", "column": "group"},
    {"by": "time", "column": "day"},
    {"by": "given", "column": "side"},
]


@pytest.mark.parametrize("split", SPLITS, ids=lambda split: split["by"])
@pytest.mark.parametrize("key", ["id", None])
@pytest.mark.parametrize("deduplicate", [True, False])
def test_no_text_is_on_two_sides_and_the_test_stays_whole(
    tmp_path: Path, split: dict[str, str], key: str | None, deduplicate: bool
) -> None:
    rng, leaks = random.Random(7), 0
    spec = dataset(**split).model_copy(update={"key": key})
    spec = spec.model_copy(update={"cleaning": spec.cleaning.model_copy(update={"deduplicate": deduplicate})})
    for trial in range(4):
        values = [
            {
                "id": i,
                "group": rng.randrange(20),
                "day": i,
                "side": rng.choice(["train", "validation", "test"]),
                "text": rng.choice(["text %d", "Text %d", " text\u200b  %d"]) % rng.randrange(25),
                "label": rng.choice(["a", "a", "a", "b"]),
            }
            for i in range(60)
        ]
        (folder := tmp_path / str(trial)).mkdir()
        texts = {str(row["id"]): str(row["text"]).replace("\u200b", "").lower().split()[1] for row in values}
        assigned = Assigned(folder, values, spec)
        before, after = assigned.before, assigned.after

        test = {texts[i] for i, place in before.items() if place == "test"}
        unseen = test | {texts[i] for i, place in before.items() if place == "validation"}
        bad = {i for i, place in before.items() if texts[i] in {"validation": test, "train": unseen}.get(place, set())}
        assert after == {i: "leaked" if i in bad else place for i, place in before.items()}
        assert assigned.dropped.get("leaked", 0) == len(bad)
        sides = {(texts[i], place) for i, place in after.items() if place in ("train", "validation", "test")}
        assert set(Counter(text for text, _ in sides).values()) == {1}
        leaks += sum(before[i] == "validation" for i in bad)
    follows_from_the_text = split["by"] == "random" and not key
    one_row_a_text = split["by"] == "stratified" and not key and deduplicate
    assert (leaks > 0) is not (follows_from_the_text or one_row_a_text)


def test_only_copies_that_stay_cost_a_validation_row(tmp_path: Path) -> None:
    rows = {
        ("test", "one", "a"): "test",
        ("validation", "One", "b"): "leaked",  # whatever its label
        ("train", "one ", "a"): "leaked",
        ("test", "two", "a"): "conflicting_labels",
        ("test", "TWO", "b"): "conflicting_labels",
        ("validation", "two", "a"): "validation",  # no test row says so any more
        ("train", "two", "a"): "leaked",
        ("validation", "three", "a"): "conflicting_labels",
        ("validation", "Three", "b"): "conflicting_labels",
        ("train", "three", "a"): "train",
    }
    values = [{"id": i, "side": s, "text": t, "label": n} for i, (s, t, n) in enumerate(rows)]
    assigned = Assigned(tmp_path, values, dataset(by="given", column="side"))
    assert assigned.after == {str(i): p for i, p in enumerate(rows.values())}
    assert assigned.dropped == {"conflicting_labels": 4, "leaked": 3}
