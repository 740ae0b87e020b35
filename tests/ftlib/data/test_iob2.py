"""Entities in tags, against nervaluate's reading of the same lists."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from nervaluate.loaders import ListLoader

from ftlib.data.iob2 import Entity, completed, entities, is_tag, rewritten, types_of

TAGS = st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-ORG", "I-ORG"]), max_size=12)


@settings(max_examples=200)
@given(TAGS)
def test_entities_are_those_that_nervaluate_finds(tags: list[str]) -> None:
    (theirs,) = ListLoader().load([tags])
    assert entities(tags) == [Entity(found.label, found.start, found.end + 1) for found in theirs]


@settings(max_examples=200)
@given(TAGS, st.data())
def test_an_entity_that_loses_words_keeps_the_others(tags: list[str], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, max(0, len(tags) - 1)), max_size=len(tags))) if tags else set()
    places = [place for place in range(len(tags)) if place not in gone]
    left = [
        [found.type, *(place for place in range(found.first, found.end) if place not in gone)]
        for found in entities(tags)
    ]
    after = [[found.type, *places[found.first : found.end]] for found in entities(rewritten(tags, gone))]
    assert after == [found for found in left if len(found) > 1]
    if all(tag[0] == "B" or before[2:] == tag[2:] for before, tag in pairwise(["O", *tags]) if tag != "O"):
        assert rewritten(tags) == tuple(tags)


def test_what_is_a_tag() -> None:
    assert [tag for tag in ("O", "B-PER", "I-a.b-c", "B-", "PER", "L-PER", "o", "B-A B", "") if is_tag(tag)] == [
        "O",
        "B-PER",
        "I-a.b-c",
    ]
    assert types_of(["O", "I-PER", "B-ORG", "B-PER"]) == ("ORG", "PER")
    assert completed(["B-PER"]) == ("B-PER", "I-PER", "O")
