"""How many answers a model draws for each prompt where it is measured, and how."""

from __future__ import annotations

from pydantic import Field

from ftlib.config import Config


class Samples(Config):
    """Answers drawn from a model's own distribution: the same ones every time, whatever they are batched with."""

    count: int = Field(ge=1, le=1000)
    """Answers for each prompt."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """What logits are divided by before a token is drawn: below 1 answers are more alike, and likelier."""
    seed: int = Field(default=0, ge=0)
    """Of the draws, with the row's place and the answer's number."""
