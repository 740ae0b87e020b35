from __future__ import annotations

from typing import Any

import pytest

from ftlib.data.formats.scored_text import ScoredText
from ftlib.data.formats.text import text_piece
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.testing import tiny_rows, tiny_tokenizer

STARS = ScoredText(text="text", score="stars", max_tokens=12, slices=("shop",))


@pytest.mark.parametrize(("value", "score"), [(3, 3.0), (-0.5, -0.5), ("4.5", 4.5), ("1e3", 1000.0), (0, 0.0)])
def test_numbers_and_texts_that_spell_one_are_scores(value: Any, score: float) -> None:
    example = STARS.example({"text": "hello", "stars": value, "shop": "a"})
    assert isinstance(example, Example)
    assert (example.text, example.target, example.slices) == ("hello", score, ("a",))
    assert example.labels == ()  # numbers are no classes: nothing counts them by name


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"stars": 1}, "missing_text"),
        ({"text": ["x"], "stars": 1}, "text_not_a_string"),
        ({"text": "x"}, "missing_score"),
        ({"text": "x", "stars": "many"}, "score_not_a_number"),
        ({"text": "x", "stars": True}, "score_not_a_number"),
        ({"text": "x", "stars": "nan"}, "score_not_a_number"),
        ({"text": "x", "stars": 10**400}, "score_not_a_number"),
    ],
)
def test_every_dropped_row_has_its_reason(values: dict[str, Any], reason: str) -> None:
    assert STARS.example(values) == Dropped(reason)


def test_copies_agree_just_when_their_scores_are_equal() -> None:
    said = [STARS.example({"text": "x", "stars": value}) for value in (3, 3.0, "3", 3.5, 0.0, -0.0)]
    labels = [example.label for example in said if isinstance(example, Example)]
    assert labels[0] == labels[1] == labels[2] != labels[3]
    assert labels[4] == labels[5]


def test_it_is_cut_as_stock_transformers_cuts_it_and_taught_its_score() -> None:
    tokenizer = tiny_tokenizer()
    texts = [str(row["text"]) for row in tiny_rows(5)] + ["invoice"]
    encoded = STARS.encode([Example(text, target=1.5) for text in texts], Processor.of(tokenizer))
    stock = [tokenizer.encode(text, truncation=True, max_length=12) for text in texts]
    assert [text.pieces for text in encoded] == [[text_piece(ids, 1.5, supervised=1)] for ids in stock]
    assert [text.truncated for text in encoded] == [len(tokenizer.encode(text)) > 12 for text in texts]
