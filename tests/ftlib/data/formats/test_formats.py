from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.formats.labeled_text import LabeledText
from ftlib.data.formats.plain_text import PlainText
from ftlib.data.formats.text import text_piece
from ftlib.data.identity import identity
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.testing import tiny_rows, tiny_tokenizer

LABELED = LabeledText(text="text", label="label", max_tokens=12, slices=("region",))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("spam", "spam"),
        (" two \n words ", "two words"),
        (3, "3"),
        (3.0, "3"),
        (True, "true"),
        ("True", "True"),
        ("007", "007"),
        ("7.0", "7.0"),
        (0, "0"),
        (False, "false"),
    ],
)
def test_names_numbers_and_truth_values_are_labels(label: Any, name: str) -> None:
    assert LABELED.example({"text": "hello", "label": label, "region": "eu"}) == Example(
        "hello", identity(name), ("eu",), target=name
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"label": "a"}, "missing_text"),
        ({"text": None, "label": "a"}, "missing_text"),
        ({"text": 5, "label": "a"}, "text_not_a_string"),
        ({"text": ["x"], "label": "a"}, "text_not_a_string"),
        ({"text": "data:image/svg+xml;base64,PHN2Zz4=", "label": "a"}, "image_as_text"),
        ({"text": "x"}, "missing_label"),
        ({"text": "x", "label": " \n"}, "empty_label"),
        ({"text": "x", "label": 0.5}, "label_not_a_name"),
        ({"text": "x", "label": ["a"]}, "label_not_a_name"),
    ],
)
def test_every_dropped_row_has_its_reason(values: dict[str, Any], reason: str) -> None:
    dropped = LABELED.example(values)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason


@pytest.mark.parametrize(
    "text", ["data:image is a URI", "see data:image/png;base64,iVBO", "data:text/plain;base64,aGk="]
)
def test_a_text_about_images_is_a_text(text: str) -> None:
    assert LABELED.example({"text": text, "label": "a", "region": "eu"}) == Example(text, "a", ("eu",), target="a")


def test_a_null_slice_is_a_slice_of_its_own() -> None:
    assert LABELED.example({"text": "x", "label": "a"}) == Example("x", "a", ("(none)",), target="a")


def test_labeled_text_is_cut_as_stock_transformers_cuts_it() -> None:
    tokenizer = tiny_tokenizer()
    texts = [str(row["text"]) for row in tiny_rows(20)] + ["invoice", ""]
    encoded = LABELED.encode([Example(text, target="a") for text in texts], Processor.of(tokenizer))
    stock = [tokenizer.encode(text, truncation=True, max_length=12) for text in texts]
    assert [text.pieces for text in encoded] == [[text_piece(ids, "a")] for ids in stock]
    assert [text.truncated for text in encoded] == [len(tokenizer.encode(text)) > 12 for text in texts]


@given(st.lists(st.integers(10, 99), max_size=40), st.integers(2, 9))
@settings(max_examples=100)
def test_every_token_of_a_plain_text_is_a_target_exactly_once(ids: list[int], max_tokens: int) -> None:
    class Ids:
        eos_token_id = 3

        def __call__(self, text: Any, **options: Any) -> Any:
            return {"input_ids": [ids for _ in text]}

    format = PlainText(text="text", max_tokens=max_tokens)
    (encoded,) = format.encode([Example("whatever")], Processor.of(Ids()))
    pieces = [piece.ids for piece in encoded.pieces]
    assert all(len(piece) <= max_tokens for piece in pieces)
    first, *rest = pieces
    assert first + [token for piece in rest for token in piece[1:]] == [*ids, 3]
    for before, after in zip(pieces, rest, strict=False):
        assert after[0] == before[-1]
    assert sum(piece.supervised for piece in encoded.pieces) == len(ids)


def test_plain_text_ends_with_the_end_token_once() -> None:
    tokenizer = tiny_tokenizer()  # puts [SEP] at the end by itself
    tokenizer.eos_token = "[SEP]"
    (encoded,) = PlainText(text="text").encode([Example("the invoice")], Processor.of(tokenizer))
    assert [piece.ids for piece in encoded.pieces] == [tokenizer.encode("the invoice")]
    assert PlainText(text="text").example({"text": 5}) == Dropped("text_not_a_string")
    assert PlainText(text="text").example({}) == Dropped("missing_text")
