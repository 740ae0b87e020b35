"""What a row is taught, as its format lays it out."""

from __future__ import annotations

from typing import TypedDict


class Span(TypedDict):
    """A place in a row's tokens, and the texts that they spell: what answers a question."""

    start: int
    """The first token of the answer; that of the row, which is no text's, where the row does not hold it."""
    end: int
    """Its last token."""
    answers: list[str]
    """Every text that counts as right."""
    spelt: list[str | None]
    """What every token adds to the text that is searched, with what lies before it; None for tokens of the question."""
    segments: list[int]
    """Each token's `token_type_ids`; empty for a model without them."""
    optional: bool
    """Whether there may be no answer, so that the row's first token, which is no text's, is one like any other."""


class Turns(TypedDict):
    """Which tokens of a conversation are learnt."""

    places: list[int]
    """Of each turn that is learnt its first token and the one behind its last, one after the other."""
    answer: str
    """The text of the last one."""
    end: int | None
    """The token that ends a turn; None where the template ends it with none of its own."""


class Pair(TypedDict):
    """Two answers to one prompt, of which one is preferred; the two sequences lie one behind the other in a row."""

    places: list[int]
    """Of the chosen answer its first token and the one behind its last, which ends its sequence; then of the other."""
    chosen: str
    rejected: str
    end: int | None
    """The token that ends an answer; None where there is none."""


class Judgement(TypedDict):
    """An answer to a prompt, and whether it is wanted."""

    places: list[int]
    """The answer's first token, and the one behind its last, which ends the row."""
    wanted: bool
    answer: str
    end: int | None
    """The token that ends an answer; None where there is none."""


class Comparison(TypedDict):
    """Two texts of which the first is better; they lie one behind the other in a row."""

    border: int
    """The second text's first token."""
    margin: float
    """By how much the first is better; 0 where rows do not say."""


class Boxes(TypedDict):
    """What lies where in an image."""

    labels: list[str]
    boxes: list[float]
    """Of each label four numbers, one behind the other: left, top, width and height, as shares of the image's."""
    crowd: list[bool]
    """Whether such a box holds many that nobody drew one by one: it is neither learnt nor counted as missed."""
    width: int
    """Of the image as it was given, in pixels."""
    height: int


NO_WORD, ASKED = -1, -2
"""In place of a token's word: that it is none's, and that it stands where a user hid one."""

Target = (
    str
    | int
    | float
    | tuple[str | None, ...]
    | tuple[int, ...]
    | Span
    | Turns
    | Pair
    | Judgement
    | Comparison
    | Boxes
    | None
)
"""What a row is taught, as its format lays it out: a label, a number, labels, a tag for every token, places in them,
or the word, counted from 0, that every token is of."""
