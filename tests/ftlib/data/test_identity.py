"""What is one to a person: by tables written by hand, by properties, and by the old rules as they were documented."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.identity import folded, identity, places, published, text_key, visible
from ftlib.data.row_keys import as_date, as_number, is_tombstone, row_key, stored_keys
from ftlib.data.row_versions import RowVersions
from ftlib.data.rows import Row, slice_values
from ftlib.data.splitting import Keyed, SplitPolicy, split_rows

ONE: list[list[Any]] = [
    [7, 7.0, "7", "7.0", " 7 ", "7.00", "\ufeff7", "7\u200b", "\u00a07"],
    [0, 0.0, -0.0, "0", "-0", "-0.0"],
    [-3, -3.0, "-3"],
    [2**60, float(2**60), str(2**60), f"{2**60}.0", "1.152921504606847e+18"],
    [True, "true", "True", "TRUE", " true", "tr\u00adue"],
    [False, "false", "False"],
    ["café", "cafe\u0301", " café", "café\u00a0", "ca\u200bfé", "ca\u00adfé", "caf\u2060é", "\u200ecafé\u200f",
     "\u202bcafé\u202c", "cafe\u200b\u0301", "caf\u200dé", "ca\u200cfé", "caf\ufff9é", "\x07café", "ca\U000e0041fé"],
    ["two words", "two  words", "two\u00a0words", "two\nwords", "two \u200b words"],
    ["❤", "❤\ufe0f"],
    ["2024-01-02", "2024-01-02T00:00:00", "2024-01-02 00:00:00", "2024-01-02T00:00:00Z", "2024-01-02T02:00+02:00"],
    ["2024-01-02T10:00:00", "2024-01-02 10:00", "2024-01-02T12:00:00+02:00", "2024-01-02T10:00:00.000"],
    [7.5, "7.5"],
    [["a", 7], ["a", 7.0], [" a", "7"]],
    [{"a": 1, "b": None}, {"b": None, "a": "1"}],
    [None, "", "  ", "\u200b", "\u00ad \u2060"],
]  # fmt: skip
TWO: list[Any] = [
    "007", 7, "1", True, "Bug", "bug", "1.1", "1.10", "a b", "ab", "v1", "2024-01-02", "2024-01-03", 2**53, 2**53 + 1,
    "می\u200cخواهم", "میخواهم", "👨\u200d👩\u200d👧", "👨👩👧", "क्\u200dष", "क्ष", "é", "e", "x²", "x2",
    "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "🏴", "x2024", "nan", "none",
]  # fmt: skip
WIDER: list[list[Any]] = [
    ["007", 7, "7.", "+7", "7e0", "７"],
    ["Bug", "bug", "BUG", "ｂｕｇ"],
    ["می\u200cخواهم", "میخواهم"],
    ["👩\u200d💻", "👩💻"],
    ["Straße", "STRASSE"],
    [2**53 + 1, float(2**53 + 1), str(2**53 + 1), f"{2**53}.0"],
    [0.1, "0.10", 0.10000000149011612, "1e-1"],
    ["x²", "x2"],
]


@pytest.mark.parametrize("same", ONE, ids=str)
def test_what_a_person_cannot_tell_apart_is_one(same: list[Any]) -> None:
    assert len({identity(value) for value in same}) == 1
    assert len({folded(value) for value in same}) == 1
    assert len(set(slice_values({str(i): value for i, value in enumerate(same)}, map(str, range(len(same)))))) == 1


def test_what_a_person_can_tell_apart_is_two() -> None:
    assert len({identity(value) for value in TWO}) == len(TWO)


@pytest.mark.parametrize("same", WIDER, ids=str)
def test_sides_and_copies_go_by_the_wider_way(same: list[Any]) -> None:
    assert len({folded(value) for value in same}) == 1


def test_what_is_shown_is_as_it_is_written() -> None:
    assert [identity(value) for value in ("007", True, 7.0, "Bug", None)] == ["007", "true", "7", "Bug", None]
    assert slice_values({"a": True, "b": 45.0, "c": "007"}, "abcd") == ("true", "45", "007", "(none)")
    assert visible("👩\u200d💻 می\u200cخواهم ca\u00adfé") == "👩\u200d💻 می\u200cخواهم café"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
invisible = st.text(
    st.sampled_from(["\u200b", "\u00ad", "\u2060", "\ufeff", "\u200e", "\u202a", "\u202c", "\u2066", "\u061c"]),
    max_size=3,
)
numbers = st.one_of(st.integers(-(2**63), 2**63), st.integers(-20, 20), st.floats(allow_nan=False, width=32))
anything = st.one_of(texts, numbers, st.booleans(), st.none(), st.lists(st.one_of(texts, numbers), max_size=3))


def respelt(value: Any) -> list[Any]:
    """Return other spellings of a value, as other programs and keyboards write it."""
    if isinstance(value, bool):
        return [str(value), str(value).lower(), str(value).upper()]
    if isinstance(value, int):
        return [str(value), f" {value}", f"{value}.0", float(value)]
    if isinstance(value, float):
        whole = [int(value), str(int(value))] if math.isfinite(value) and value.is_integer() else []
        return [str(value), *whole]
    if isinstance(value, str):
        forms = [unicodedata.normalize(form, value) for form in ("NFC", "NFD")]
        return [*forms, f" {value}\u00a0", f"\u200b{value}\u00ad", "\u2060".join(value)]
    return [value]


@given(anything, st.data())
@settings(max_examples=300)
def test_every_spelling_is_on_the_side_of_the_group(value: Any, data: st.DataObject) -> None:
    """Against no table: whatever is one, spelt by other programs, is one group, one copy and on one side."""
    other = data.draw(st.sampled_from(respelt(value)))
    assert folded(other) == folded(value)
    if not (isinstance(value, int) and abs(value) > 2**53):  # float64 holds no more of it
        assert identity(other) == identity(value)
    policy = SplitPolicy(by="group", column="g", validation=0.3, test=0.3)
    rows = [Keyed(str(i), b"", None, one) for i, one in enumerate((value, other))]
    assert len(set(split_rows(policy, rows))) == 1


@given(anything, anything)
@settings(max_examples=300)
def test_what_is_one_by_the_narrow_way_is_one_by_the_wide_way(one: Any, other: Any) -> None:
    assert identity(one) != identity(other) or folded(one) == folded(other)
    found = identity(one)
    assert identity(found) == found
    assert found is None or found == unicodedata.normalize("NFC", found).strip()


@given(texts, invisible, st.integers(0, 12))
@settings(max_examples=300)
def test_invisible_characters_change_no_key(text: str, hidden: str, at: int) -> None:
    other = text[:at] + hidden + text[at:]
    assert identity(other) == identity(text)
    assert text_key(other) == text_key(text)


def test_the_key_of_a_text_ignores_case_white_space_and_what_cannot_be_seen() -> None:
    assert text_key("Straße  A\n") == text_key("STRASSE a") == text_key("Stra\u00adße\u200b a")
    assert text_key("a b") != text_key("ab")
    old = hashlib.blake2b(" ".join("Ein Café, zwei\nCafés".casefold().split()).encode(), digest_size=16).digest()
    assert text_key("Ein Café, zwei\nCafés") == old  # as ever: rows without such characters stay on their sides


def test_numbers_of_any_size_are_folded_without_harm() -> None:
    for text in ("9" * 5000, "1e999", "0." + "1" * 38, "1" * 38 + ".5", "-" + "9" * 39, "1e-999", "..", "+", "e5"):
        assert folded(text)
    assert folded(1e308) == str(int(1e308))


def test_the_most_frequent_spelling_is_published_then_the_first() -> None:
    assert published({"True": 3, "true": 2, "false": 1}) == {"True": "True", "true": "True", "false": "false"}
    assert published({"b": 1, "True": 2, "true": 2})["true"] == "True"
    assert published({"007": 1, "7": 1}) == {"007": "007", "7": "7"}
    assert published({"ca\u00adfé": 5, "café": 1}) == {"ca\u00adfé": "café", "café": "café"}
    assert published({"True": 3, "true": 2}, names=["true", "false"]) == {"True": "true", "true": "true"}
    assert published({"True": 3, "true": 2}, names=["true", "True"])["true"] == "True"  # names that collide say nothing


def test_a_label_is_found_however_it_is_spelt_and_its_own_spelling_first() -> None:
    assert places(["true", "FALSE", "7.0", "other"], ["7", "False", "True"]) == [2, 1, 0, None]
    assert places(["True", "true", "TRUE"], ["True", "true"]) == [0, 1, 0]


@pytest.mark.parametrize("key", ["7", 7, 7.0, "7.0", " 7\u200b"])
def test_a_tombstone_hits_its_key_in_every_spelling(key: Any) -> None:
    for row, dead in itertools.product(("7", 7, 7.0, "7.00"), (True, "true", "True ", "\u200btrue")):
        seen = RowVersions("id", None)
        seen.add(Row("f", 1, 0, {"id": row}), 0)
        assert seen.bury(Row("g", 1, 0, {"id": key, "_deleted": dead}), 1)
        kept, counts = seen.last()
        assert (kept.tolist(), counts) == ([False], {"deleted": 1, "tombstone": 1})
    assert is_tombstone("1") is None


def old_key(value: Any) -> str:
    """What a key was stored as until identity had versions (docs/lineage.md of then)."""
    return str(int(value)) if isinstance(value, float) else str(value).strip()


@pytest.mark.parametrize(
    ("stored", "asked"),
    [("cafe\u0301@x.org", "café@x.org"), ("café", "cafe\u0301"), ("7.0", 7), ("7", "7.0"), (7.0, " 7 "),
     ("True", "true"), ("2024-01-02T00:00:00", "2024-01-02"), ("ca\u00adfé", "ca\u00adfé"), ("007", "007"),
     (" x ", "x\u200b")],
)  # fmt: skip
def test_what_was_stored_under_the_first_identity_is_found_under_it(stored: Any, asked: Any) -> None:
    assert old_key(stored) in stored_keys(asked, 1)
    assert stored_keys(asked) == (row_key(asked),)
    assert old_key(7) not in stored_keys("007", 1)


@given(texts)
@settings(max_examples=100)
def test_a_key_is_found_under_the_first_identity_as_it_was_written(text: str) -> None:
    assert row_key(text) is None or old_key(text) in stored_keys(text, 1)


def test_moments_and_numbers_are_read_through_what_cannot_be_seen() -> None:
    assert as_number("7\u200b") == 7.0
    assert as_date("2024-01-02\u00a0") == as_date("\ufeff2024-01-02") == as_date("2024-01-02T00:00Z")


def test_given_sides_are_read_like_everything_else() -> None:
    policy = SplitPolicy(by="given", column="side")
    said = ["Train", "\u200btest", "ＴＥＳＴ", " validation", "", "\u00ad"]
    rows = [Keyed(str(i), b"", None, value) for i, value in enumerate(said)]
    assert split_rows(policy, rows) == ["train", "test", "test", "validation", None, None]


def test_nested_groups_do_not_depend_on_the_order_of_names() -> None:
    one, other = json.loads('{"a": [1, "x"], "b": true}'), json.loads('{"b": "true", "a": [1.0, " x"]}')
    assert folded(one) == folded(other)
    assert folded({"a": 1}) != folded({"a": 2})
