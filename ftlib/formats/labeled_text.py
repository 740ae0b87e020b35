"""One text, one label."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config


class LabeledText(Config):
    """A text column and a label column, for sequence classification."""

    kind: Literal["labeled_text"] = "labeled_text"
    text: str
    label: str
    max_tokens: int = Field(default=256, gt=1)
    """Longer texts are cut; how many is reported."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "labeled"
