from __future__ import annotations

import datetime
import decimal
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.rows import BadRow, Checked, Row, canonical_json, check_values, from_python, need_column
from ftlib.errors import DataError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def check(values: dict[str, Any], row_bytes: int = 10_000) -> Checked | BadRow:
    return check_values(Row("rows.jsonl", 7, 50, values), row_bytes)


def test_the_id_is_the_sha256_of_sorted_compact_json_without_nulls() -> None:
    found = check({"b": "é", "a": 1, "c": None})
    assert isinstance(found, Checked)
    assert found.row_id == hashlib.sha256('{"a":1,"b":"é"}'.encode()).hexdigest()[:32]
    assert found.values == {"b": "é", "a": 1}


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), json_values, max_size=4))
@settings(max_examples=100)
def test_every_row_is_either_kept_whole_or_quarantined_with_a_reason(values: dict[str, Any]) -> None:
    found = check(values, row_bytes=300)
    if isinstance(found, BadRow):
        assert found.reason in {"no_values", "too_large", "lone_surrogate"}
        assert found.line == 7
    else:
        assert found.values == {name: value for name, value in values.items() if value is not None}


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), json_values, max_size=4))
@settings(max_examples=300)
def test_canonical_json_is_what_the_json_module_says(values: dict[str, Any]) -> None:
    said = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    assert canonical_json(values) == said.encode()


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=300)
def test_floats_are_spelt_as_the_json_module_spells_them(number: float) -> None:
    assert canonical_json({"x": number}) == f'{{"x":{json.dumps(number)}}}'.encode()


@pytest.mark.parametrize("number", [1e15, 9999999999999998.0, 1e16, 1e-4, 9.999e-5, 1e-5, 1e22, -0.0, 5e-324])
def test_floats_at_the_borders_of_scientific_notation(number: float) -> None:
    assert (
        canonical_json({"x": number, "y": -number}) == json.dumps({"x": number, "y": -number}).replace(" ", "").encode()
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"a": None}, "no_values"),
        ({}, "no_values"),
        ({"a": "\ud800"}, "lone_surrogate"),
        ({"a": float("inf")}, "not_finite"),
        ({"_row_id": "x"}, "reserved_column"),
        ({"a": "x" * 20_000}, "too_large"),
    ],
)
def test_what_no_later_stage_could_hold_is_a_bad_row(values: dict[str, Any], reason: str) -> None:
    found = check(values)
    assert isinstance(found, BadRow)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (float("nan"), "not_finite"),
        ([1.0, {"x": float("-inf")}], "not_finite"),
        ({"x": "\ud800"}, "lone_surrogate"),
        (["x" * 20_000], "too_large"),
    ],
)
def test_the_column_that_is_to_blame_is_named_with_a_remedy(cell: Any, reason: str) -> None:
    found = check({"text": "a" * 500, "odd": cell, "label": "b"})
    assert isinstance(found, BadRow)
    assert (found.reason, found.column) == (reason, "odd")
    assert "column 'odd'" in found.detail
    assert "source.drop_columns" in found.detail


def test_cells_of_tables_become_json() -> None:
    moment = datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC)
    cell = {"when": moment, "price": decimal.Decimal("1.50"), "gap": float("nan"), "list": [datetime.date(2024, 5, 6)]}
    assert from_python(cell) == {
        "when": "2024-05-06T07:08:09+00:00",
        "price": "1.50",
        "gap": None,
        "list": ["2024-05-06"],
    }
    with pytest.raises(TypeError):
        from_python([b"bytes"])


def test_an_absent_column_is_one_line_with_the_columns_there_are() -> None:
    with pytest.raises(DataError) as caught:
        need_column("txt", ["text", "label"], "datasets.mail.format")
    assert str(caught.value) == (
        "datasets.mail.format: no column 'txt' in the rows; the columns are label, text; did you mean 'text'?"
    )
