from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ftlib.data.row_schema import Column, compile_schema
from ftlib.data.rows import BadRow, Row

COLUMNS: dict[str, Any] = {
    "id": {"type": "int", "at_least": 0},
    "body text": {"type": "string", "min_length": 1, "max_length": 5},
    "label": {"type": "enum", "values": ["bug", "sales"]},
    "score": {"type": "float", "required": False, "at_most": 1.0},
    "day": {"type": "datetime", "required": False},
    "ok": {"type": "bool", "required": False},
}
GOOD: dict[str, Any] = {"id": 1, "body text": "x", "label": "bug"}


def check(values: dict[str, Any], *, untyped: bool = False) -> dict[str, Any] | BadRow:
    schema = compile_schema({name: Column.model_validate(column) for name, column in COLUMNS.items()})
    assert schema is not None
    row = Row("rows.jsonl", 7, 50, values, untyped)
    return schema(row, {name: value for name, value in values.items() if value is not None})


@pytest.mark.parametrize(
    ("changed", "reason", "detail"),
    [
        ({"id": None}, "missing_value", "column 'id': null"),
        ({"id": 1.0}, "wrong_type", "column 'id': Expected `int`, got `float`: 1.0"),
        ({"id": True}, "wrong_type", "column 'id': Expected `int`, got `bool`: True"),
        ({"id": "1"}, "wrong_type", "column 'id': Expected `int`, got `str`: '1'"),
        ({"id": -1}, "not_allowed", "column 'id': Expected `int` >= 0: -1"),
        ({"body text": ""}, "not_allowed", "column 'body text': Expected `str` of length >= 1: ''"),
        ({"body text": "sixsix"}, "not_allowed", "column 'body text': Expected `str` of length <= 5: 'sixsix'"),
        ({"body text": ["x"]}, "wrong_type", "column 'body text': Expected `str`, got `array`: ['x']"),
        ({"label": "bgu"}, "not_allowed", "column 'label': Invalid enum value 'bgu': 'bgu'"),
        ({"score": "high"}, "wrong_type", "column 'score': Expected `float`, got `str`: 'high'"),
        ({"score": 2}, "not_allowed", "column 'score': Expected `float` <= 1.0: 2"),
        ({"day": 20240506}, "wrong_type", "column 'day': Expected `str`, got `int`: 20240506"),
        ({"day": "2024-13-01"}, "wrong_type", "column 'day': month must be in 1..12"),
        ({"day": "soon"}, "wrong_type", "column 'day': Invalid isoformat string: 'soon'"),
        ({"ok": 1}, "wrong_type", "column 'ok': Expected `bool`, got `int`: 1"),
    ],
)
def test_a_row_that_breaks_the_schema_says_which_column_and_how(
    changed: dict[str, Any], reason: str, detail: str
) -> None:
    found = check({**GOOD, **changed})
    assert isinstance(found, BadRow)
    assert (found.reason, found.detail, found.column) == (reason, detail, next(iter(changed)))
    assert (found.uri, found.line, found.bytes) == ("rows.jsonl", 7, 50)


def test_an_absent_column_says_which_there_are() -> None:
    found = check({"id": 1, "text": "x"})
    assert isinstance(found, BadRow)
    assert (found.reason, found.column) == ("missing_value", "body text")
    assert found.detail == "column 'body text': absent; there are 'id', 'text'"


def test_what_the_schema_does_not_name_is_kept_as_it_is() -> None:
    row = {**GOOD, "score": 1, "day": "2024-05-06T07:08:09Z", "other": [1, {"a": None}]}
    found = check(row)
    assert found == {**row, "score": 1.0}
    assert isinstance(found, dict)
    assert type(found["score"]) is float
    assert row["score"] == 1
    assert type(row["score"]) is int  # a new row: the source's own is left alone


def test_texts_of_csv_become_what_is_asked_for() -> None:
    row = {"id": "12", "body text": "7", "label": "bug", "score": "1e-1", "ok": "true", "day": "2024-05-06", "n": "3"}
    assert check(row, untyped=True) == {**row, "id": 12, "score": 0.1, "ok": True}
    for wrong in ({"id": "1.5"}, {"ok": "yes"}, {"score": ""}):
        found = check({**row, **wrong}, untyped=True)
        assert isinstance(found, BadRow)
        assert (found.reason, found.column) == ("wrong_type", next(iter(wrong)))


class Reference(BaseModel):
    """The same schema in pydantic's strict mode."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: int = Field(ge=0)
    body_text: str = Field(alias="body text", min_length=1, max_length=5)
    label: Literal["bug", "sales"]
    score: float | None = Field(default=None, le=1.0)
    ok: bool | None = None


value = (
    st.none() | st.booleans() | st.integers(-2, 3) | st.floats(-2, 2) | st.text(max_size=7) | st.lists(st.integers())
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.integers(-1, 3) | value,
            "body text": st.text(max_size=7) | value,
            "label": st.sampled_from(["bug", "sales", "bug\n"]) | value,
            "score": st.floats(-2, 2) | value,
            "ok": st.booleans() | value,
            "more": value,
        },
    )
)
@settings(max_examples=400)
def test_it_refuses_what_pydantic_refuses(row: dict[str, Any]) -> None:
    try:
        Reference.model_validate(row)
        refused = False
    except ValidationError:
        refused = True
    assert isinstance(check(row), BadRow) == refused


def test_no_columns_are_no_schema() -> None:
    assert compile_schema({}) is None


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"type": "int", "max_length": 3}, "a column of type 'int' has no length; remove min_length and max_length"),
        ({"type": "string", "at_least": 3}, "a column of type 'string' is no number; remove at_least and at_most"),
        ({"type": "enum"}, "type 'enum' and values go together; give both or neither"),
        ({"type": "string", "values": ["a"]}, "type 'enum' and values go together; give both or neither"),
    ],
)
def test_a_column_that_does_not_fit_together_is_refused(column: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Column.model_validate(column)
