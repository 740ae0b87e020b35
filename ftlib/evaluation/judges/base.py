"""What all judges have in common: pairs of answers in, which of the two is better out, and what that took."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import Config
from ftlib.models.reference import ModelRef

Verdict = Literal["first", "second", "tie", "unread"]
"""Which answer is better; `unread`: the judge's reply says none of these."""

_LETTER = re.compile(r"\b([ABC])\b")
_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_AT_ONCE = re.compile(r"[\W_]*(?:(?:the )?(?:better )?answer(?: is)?[\W_]*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, in the order in which a judge sees them."""

    prompt: str
    first: str
    second: str
    reference: str | None = None
    """The row's own answer, for checkers that need one."""

    def swapped(self) -> Pair:
        """Return them in the other order."""
        return Pair(self.prompt, self.second, self.first, self.reference)


class Cost(Config):
    """What judging took."""

    calls: int = 0
    """Questions that a language model was asked."""
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0

    def plus(self, other: Cost) -> Cost:
        """Return the sum of two."""
        return Cost(
            calls=self.calls + other.calls,
            tokens_in=self.tokens_in + other.tokens_in,
            tokens_out=self.tokens_out + other.tokens_out,
            seconds=self.seconds + other.seconds,
        )

    def line(self) -> str:
        """Say it in a clause."""
        tokens = f", {self.tokens_in:,} tokens read, {self.tokens_out:,} written" if self.calls else ""
        return f"{self.calls:,} calls{tokens}, {self.seconds:.1f} s"


class JudgeBase(Config, ABC):
    """Who says which of two answers is better."""

    swaps: ClassVar[bool] = True
    """Whether the order in which it sees two answers may sway it, so that it is asked in both."""
    unsaid: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how it is reached, and change no verdict."""

    @property
    def asks(self) -> Mapping[str, ModelRef]:
        """Return the models in folders that it asks, by name."""
        return {}

    def misfits(self) -> Sequence[str]:
        """Return what it lacks on this machine, a line each."""
        return ()

    def identity(self) -> str:
        """Return what verdicts are kept by: another judge, or one of other weights, has another."""
        return f"{type(self).__name__} {self.model_dump_json(exclude={*self.unsaid})}"

    @abstractmethod
    def verdicts(self, pairs: Sequence[Pair]) -> tuple[list[Verdict], Cost]:
        """Return a verdict for each pair in the order given, and what that took."""


class AsksInWords(JudgeBase):
    """A language model that is asked in words, and answers with a letter."""

    criterion: str = "Which answer is more helpful, correct and to the point?"
    """What it is asked of two answers."""
    max_new_tokens: int = Field(default=8, ge=1)
    """What it may write: a letter, and what it cannot keep from saying before."""

    def question(self, pair: Pair) -> str:
        """Return what it is asked. What answers say stands between lines, and is data: a judge may still be swayed."""
        return (
            f"Two answers to one request are compared. {self.criterion}\n\n"
            f"[Request]\n{pair.prompt}\n\n[Answer A]\n{pair.first}\n\n[Answer B]\n{pair.second}\n\n[End]\n"
            "Reply with one letter alone: A if answer A is better, B if answer B is better, C if they are equally good."
        )


def read_reply(reply: str) -> Verdict:
    """Return what a reply says: the letter it begins with, or the only one of A, B and C that it has; else `unread`.

    What a model thinks before it answers is left out. An A that a word follows may be an article.
    """
    said = _THOUGHT.sub("", reply)
    letters = {*_LETTER.findall(said)}
    begins = _AT_ONCE.match(said)
    first = _LETTER.match(said, begins.end() if begins else 0)
    if first and not (first[1] == "A" and re.match(r"\s+(?!is\b)\w", said[first.end() :])):
        letters = {first[1]}
    found: dict[str, Verdict] = {"A": "first", "B": "second", "C": "tie"}
    return found[letters.pop()] if len(letters) == 1 else "unread"
