"""Tags of words in IOB2: `B-PER` begins an entity of type PER, `I-PER` goes on with it, `O` is outside of any.

An `I-` that continues nothing begins an entity, as in conlleval, so rows in the older IOB1 read right as well, and a
model's odd sequence is scored and not thrown away.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
_TAG = re.compile(r"O|[BI]-\S+")


class Entity(NamedTuple):
    """A run of words: equal entities have the same type and both ends."""

    type: str
    first: int
    end: int
    """The place after its last word."""


def is_tag(tag: str) -> bool:
    """Return whether a text is `O`, `B-` or `I-` with a type."""
    return _TAG.fullmatch(tag) is not None


def types_of(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the types of entity that the tags name, sorted."""
    return tuple(sorted({tag[2:] for tag in tags if tag != OUTSIDE}))


def completed(tags: Iterable[str]) -> tuple[str, ...]:
    """Return the tags with both of every type and `O`, sorted: a rare type may have no `I-` in training."""
    types = types_of(tags)
    return tuple(sorted({OUTSIDE, *(f"{prefix}-{type}" for prefix in "BI" for type in types)}))


def entities(tags: Sequence[str]) -> list[Entity]:
    """Return the entities of a sequence of tags, in order."""
    spans: list[Entity] = []
    for position, tag in enumerate(tags):
        if tag == OUTSIDE:
            continue
        before = spans[-1] if spans else None
        if tag[0] == "I" and before is not None and before.end == position and before.type == tag[2:]:
            spans[-1] = before._replace(end=position + 1)
        else:
            spans.append(Entity(tag[2:], position, position + 1))
    return spans


def rewritten(tags: Sequence[str], gone: Iterable[int] = ()) -> tuple[str, ...]:
    """Return the tags without some places, in IOB2: the first that is left of an entity is its `B-`."""
    lost, written = {*gone}, [OUTSIDE] * len(tags)
    for entity in entities(tags):
        left = [position for position in range(entity.first, entity.end) if position not in lost]
        for i, position in enumerate(left):
            written[position] = f"{'I' if i else 'B'}-{entity.type}"
    return tuple(tag for position, tag in enumerate(written) if position not in lost)
