"""Text to be continued."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config


class PlainText(Config):
    """A text column, for causal language modelling; every token but the first is a target."""

    kind: Literal["plain_text"] = "plain_text"
    text: str
    max_tokens: int = Field(default=512, gt=1)
    slices: tuple[str, ...] = ()

    yields: ClassVar[BatchKind] = "tokens"
