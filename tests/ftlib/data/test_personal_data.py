"""Personal data by patterns, against a set of lines that says what is found, missed and found wrongly."""

import re
import time
from pathlib import Path

import pytest

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
