from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.cleaning import clean

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts, st.booleans())
@settings(max_examples=300)
def test_cleaning_twice_changes_nothing_and_leaves_no_control_character(text: str, keep_lines: bool) -> None:
    once = clean(text, keep_lines=keep_lines)
    assert clean(once, keep_lines=keep_lines) == once
    assert unicodedata.is_normalized("NFC", once)
    allowed = {"\n", "\t", "\x1f"} if keep_lines else set[str]()
    assert not [c for c in once if unicodedata.category(c) == "Cc" and c not in allowed]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("e\u0301te\u0301", "été"),
        ("e\x00\u0301", "é"),  # the accent meets its letter only when the control character is gone
        (" a\t b\r\n\u00a0c\u2003", "a b c"),
        ("\ufeffbell\x07", "bell"),
        ("👩\u200d💻", "👩\u200d💻"),  # the joiner is part of the character
    ],
)
def test_clean(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_lines_and_indentation_stay_for_language_models() -> None:
    assert clean("\r\ndef f():  \r\n    return 1\n\n\n\nend\n", keep_lines=True) == "def f():\n    return 1\n\nend"
