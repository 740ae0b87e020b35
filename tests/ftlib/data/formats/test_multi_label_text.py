from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftlib.data.formats.labeled_text import LabeledText
from ftlib.data.formats.multi_label_text import MultiLabelText
from ftlib.data.formats.text import text_piece
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.testing import tiny_rows, tiny_tokenizer

LISTS = MultiLabelText(text="text", labels="tags", max_tokens=12, slices=("region",))
TEXTS = MultiLabelText(text="text", labels="tags", separator=";")


def labels(format: MultiLabelText, value: Any) -> Any:
    example = format.example({"text": "hello", "tags": value, "region": "eu"})
    return example.target if isinstance(example, Example) else example.reason


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (["bug", "billing"], ("billing", "bug")),
        (["bug", "bug ", " bug"], ("bug",)),
        ([], ()),
        ([1, True, 2.0], ("1", "2", "true")),
        (["True", True, "7.0", 7, "ca\u00adfé", "café"], ("7", "True", "café")),
        (["a;b"], ("a;b",)),
        (None, "missing_label"),
        ("bug", "labels_not_a_list"),
        ({"bug": 1}, "labels_not_a_list"),
        (["bug", " "], "empty_label"),
        (["bug", None], "missing_label"),
        (["bug", 0.5], "label_not_a_name"),
        ([["bug"]], "label_not_a_name"),
    ],
)
def test_a_list_is_the_set_of_its_names(value: Any, found: Any) -> None:
    assert labels(LISTS, value) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bug; billing", ("billing", "bug")),
        ("bug;;", ("bug",)),
        ("", ()),
        (None, ()),  # csv writes no labels like this
        (["bug", "a;b"], ("a;b", "bug")),
        (7, "labels_not_a_list"),
    ],
)
def test_with_a_separator_a_text_is_a_list(value: Any, found: Any) -> None:
    assert labels(TEXTS, value) == found


@pytest.mark.parametrize(
    ("values", "reason"), [({"tags": []}, "missing_text"), ({"text": 5, "tags": []}, "text_not_a_string")]
)
def test_a_row_without_a_text_is_dropped(values: dict[str, Any], reason: str) -> None:
    assert LISTS.example(values) == Dropped(reason)


@given(st.lists(st.lists(st.text(alphabet="a,;\"'[] ", min_size=1).filter(str.strip), max_size=3), max_size=6))
def test_copies_agree_just_when_their_sets_of_labels_are_equal(many: list[list[str]]) -> None:
    examples = [LISTS.example({"text": "x", "tags": value}) for value in many]
    for one in examples:
        for other in examples:
            assert isinstance(one, Example)
            assert isinstance(other, Example)
            assert (one.label == other.label) == (one.target == other.target)
            assert one.labels == one.target


def test_it_is_cut_as_stock_transformers_cuts_it_and_taught_its_labels() -> None:
    tokenizer = tiny_tokenizer()
    texts = [str(row["text"]) for row in tiny_rows(5)] + ["invoice"]
    encoded = LISTS.encode([Example(text, target=("a", "b")) for text in texts], Processor.of(tokenizer))
    stock = [tokenizer.encode(text, truncation=True, max_length=12) for text in texts]
    assert [text.pieces for text in encoded] == [[text_piece(ids, ("a", "b"), supervised=1)] for ids in stock]
    assert [text.truncated for text in encoded] == [len(tokenizer.encode(text)) > 12 for text in texts]


@pytest.mark.parametrize(
    "value",
    [
        '["bug", "billing"]',
        "['bug']",
        "[]",
        " [1, 2] ",
        "('bug', 'sales')",
        "{'bug'}",
        "['bug' 'sales']",
        "('bug',)",
        "()",
    ],
)
def test_a_cell_that_spells_a_list_is_none(value: str) -> None:
    assert labels(LISTS, value) == "list_as_text"
    assert labels(TEXTS, value) == "list_as_text"
    assert LabeledText(text="text", label="tags").example({"text": "hello", "tags": value}) == Dropped("list_as_text")


@pytest.mark.parametrize("value", ["[bug]", "(other)", "[bug]; [ui]", "a [b]", "[", '"quoted"'])
def test_a_name_in_brackets_is_a_label(value: str) -> None:
    assert labels(TEXTS, value) == tuple(sorted(part.strip() for part in value.split(";")))
    example = LabeledText(text="text", label="tags").example({"text": "hello", "tags": value})
    assert isinstance(example, Example)
    assert example.label == value


def test_an_array_of_postgresql_is_a_list_where_cells_hold_several() -> None:
    for value in ("{bug; sales}", "{bug}", "{}"):
        assert labels(TEXTS, value) == "list_as_text"
    one = LabeledText(text="text", label="tags").example({"text": "hello", "tags": "{bug}"})
    assert isinstance(one, Example)
    assert one.label == "{bug}"


def test_a_list_without_quotes_is_one_by_its_separator() -> None:
    assert labels(TEXTS, "[bug; sales]") == "list_as_text"
