"""Personal data by patterns, against a set of lines that says what is found, missed and found wrongly."""

import random
import re
import time
from pathlib import Path

import pytest

from ftlib.data import personal_data
from ftlib.data.personal_data import KINDS, PersonalData, PersonalDataSearch, redact, said

LINES = [
    line.split("\t", 1)
    for line in Path(__file__).with_name("personal_lines.tsv").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
ALL = frozenset(KINDS)


def kinds_in(text: str) -> list[str]:
    return re.findall(r"\[([a-z-]+)\]", redact(text, ALL, {}))


@pytest.mark.parametrize(("wanted", "line"), LINES)
def test_every_line_of_the_set_says_what_the_page_says(wanted: str, line: str):
    false_alarm = re.fullmatch(r"\[false (.+)\]", wanted)
    expected = [false_alarm[1]] if false_alarm else [] if wanted[0] in "-[" else wanted.split()
    assert kinds_in(line) == expected
    counts: dict = {}
    redact(line, ALL, counts)
    assert sum(counts.values()) == len(expected)


def test_values_of_any_shape_are_looked_at_and_what_has_no_match_is_the_same_object():
    asked = PersonalData(columns={"turns": "redact", "card": "redact", "mail": "redact", "skipped": "ignore"})
    search = PersonalDataSearch(asked, frozenset({"image"}), frozenset({"mail"}))
    values = {
        "turns": [{"role": "user", "content": "I am a@b.io"}],
        "card": 4111111111111111,
        "mail": "key@example.com",
        "skipped": "a@b.io",
        "image": "data:a@b.io",
        "truth": True,
        "share": 0.5,
    }
    kept, column, _ = search.look(values)
    assert column is None
    assert kept["turns"] == [{"role": "user", "content": "I am [e-mail]"}]
    assert kept["card"] == "[card]"
    assert {name: kept[name] for name in ("mail", "skipped", "image", "truth", "share")} == {
        name: values[name] for name in ("mail", "skipped", "image", "truth", "share")
    }
    assert said(search.counts) == ["card: 1 card", "mail: 1 e-mail", "turns: 1 e-mail"]
    plain = {"text": "nothing here 12", "n": 7}
    assert search.look(plain)[0] is plain


def test_names_inside_an_object_are_looked_at_too():
    votes = {"votes": {"a@b.de": 1, "c@b.de": 2, "[e-mail] 2": 3, "up": 4}}
    search = PersonalDataSearch(PersonalData(every_column="redact"), frozenset(), frozenset())
    kept, *_ = search.look(votes)
    assert kept == {"votes": {"[e-mail]": 1, "[e-mail] 3": 2, "[e-mail] 2": 3, "up": 4}}
    assert search.counts == {"votes": {"e-mail": 2}}
    refused = PersonalDataSearch(PersonalData(every_column="refuse"), frozenset(), frozenset())
    assert refused.look(votes)[1:] == ("votes", ["e-mail"])


@pytest.mark.parametrize(
    "text", ["1" * 10**6, "a@" * 10**5, "+1 " * 10**5, "1-" * 10**5, "1------" * 10**5, "a." * 10**5 + "@", ":" * 10**5,
             "FR76 " + "A " * 10**5, "://a:" * 10**5]
)  # fmt: skip
def test_long_texts_that_nearly_match_take_no_longer_than_others(text: str):
    began = time.process_time()
    redact(text, ALL, {})
    assert time.process_time() - began < 2.0


def test_the_quick_look_leaves_out_no_pattern_that_finds_something():
    draw = random.Random(3)
    whole = [line for _, line in LINES]
    signs = ["\u00a0", "\u202f", " ", "é", *"012ABabx.:-+()/@"]
    pieces = [*signs, "00", "2A", "::", "12", "2026-11-17", "14:32"]
    for _ in range(3000):
        text = "".join(draw.choice(whole if draw.random() < 0.2 else pieces) for _ in range(draw.randint(1, 9)))
        text = "".join(c if draw.random() < 0.98 else draw.choice("0123 aB:.") for c in text)
        expected, ours, theirs = text, {}, {}
        for pattern in personal_data._PATTERNS:
            expected = personal_data._replaced(expected, pattern, theirs)
        assert (redact(text, ALL, ours), ours) == (expected, theirs)


@pytest.mark.parametrize(
    "text", ["at 14:32:10 on 2026-11-17, order 123456", "see v. 1.2. on 2026-11-17. a. b.", "2024"]
)
def test_a_date_or_a_small_number_is_no_candidate(text: str):
    assert not personal_data._candidates(text)


def test_names_in_objects_are_looked_at():
    search = PersonalDataSearch(PersonalData(every_column="redact"), frozenset(), frozenset())
    votes = {"a@b.de": 1, "[e-mail] 2": 2, "c@d.de": {"x": 3}, "y": 4}
    kept, _, _ = search.look({"m": votes})
    assert kept["m"] == {"[e-mail]": 1, "[e-mail] 2": 2, "[e-mail] 3": {"x": 3}, "y": 4}
    assert search.counts == {"m": {"e-mail": 2}}
    refusing = PersonalDataSearch(PersonalData(every_column="refuse"), frozenset(), frozenset())
    assert refusing.look({"m": votes})[1] == "m"
