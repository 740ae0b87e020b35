"""Where rows go through histories of edits: what was evaluated once is never trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.artifacts import Ledger, RawDataset
from ftlib.assignment import assign
from ftlib.recipe_parts import Dataset
from ftlib.rows import Checked, Row, check_values
from ftlib.snapshot import read_snapshot, write_snapshot


def dataset(**split: Any) -> Dataset:
    return Dataset.model_validate(
        {
            "source": {"kind": "files", "path": "rows/"},
            "format": {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 8},
            "key": "id",
            "split": {"validation": 0.25, "test": 0.25, **split},
        }
    )


def places(folder: Path, rows: dict[int, str], spec: Dataset) -> dict[str, str]:
    values = [{"id": key, "group": key // 2, "text": text, "label": "l"} for key, text in rows.items()]
    checked = [check_values(Row("f", i, 0, row), 1000) for i, row in enumerate(values)]
    snapshot = write_snapshot(folder / "rows.parquet", [row for row in checked if isinstance(row, Checked)])
    raw = RawDataset(
        content=snapshot.content, columns=snapshot.columns, files=(), ledger=Ledger(rows_in=0, kept=0), uri=str(folder)
    )
    keys = [str(values["id"]) for _, values in read_snapshot(folder / "rows.parquet")]
    assignment = assign(raw, spec, "datasets.d")
    assignment.drop_leaked([])
    return dict(zip(keys, assignment.places, strict=True))


edit = st.tuples(st.integers(0, 11), st.sampled_from(["one", "two", "three", "One ", "four words of text"]))


@pytest.mark.parametrize("split", [{}, {"by": "group", "column": "group"}])
@given(st.lists(st.lists(edit, min_size=1, max_size=6), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_a_row_that_was_evaluated_is_never_trained_on(
    tmp_path_factory: pytest.TempPathFactory, split: dict[str, str], history: list[list[tuple[int, str]]]
) -> None:
    folder, spec = tmp_path_factory.mktemp("history"), dataset(**split)
    rows: dict[int, str] = {}
    sides: dict[str, str] = {}
    for edits in history:
        rows |= dict(edits)
        now = places(folder, rows, spec)
        for key, place in now.items():
            if place in ("train", "validation", "test"):
                assert sides.setdefault(key, place) == place
        held_out = {rows[int(key)].casefold().strip() for key, place in now.items() if place in ("validation", "test")}
        assert held_out.isdisjoint(rows[int(k)].casefold().strip() for k, place in now.items() if place == "train")
