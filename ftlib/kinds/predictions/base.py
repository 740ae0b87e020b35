"""What the answers of all kinds have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from typing_extensions import override

from ftlib.config import Config
from ftlib.data.cleaning import clean
from ftlib.data.limits import Limits
from ftlib.data.rows import Example, Piece

if TYPE_CHECKING:
    from torch import Tensor


class Prediction(Config, ABC):
    """What a model says to one text."""

    @abstractmethod
    def line(self) -> str:
        """Return it as one line of fields with tabs between them."""


class Unasked(Prediction):
    """A file that the model was not asked about, since there is nothing in it that it reads."""

    file: str
    error: str
    """A predicate with its remedy: `cannot be read: ...`."""

    @override
    def line(self) -> str:
        return f"{self.file} {self.error}"


@dataclass(frozen=True)
class Asked:
    """One text, as the model read it, and what it said."""

    example: Example
    pieces: Sequence[Piece]
    """One, or several where the format cuts long texts."""
    logits: Sequence[Tensor]
    """Of each piece: by label, or by its own tokens and label; in float64. None where the model writes."""
    written: str = ""
    """What it wrote, where it does."""


@dataclass(frozen=True)
class Predictor(ABC):
    """One published model, as users ask it."""

    labels: tuple[str, ...]
    """The model's, in its order."""
    answer_threshold: float
    """From where on there is no answer: as in the metric that the version was chosen by."""
    limits: Limits
    """Of the rows that it was trained on."""

    reads_files: ClassVar[bool] = False
    """Whether what is asked is the path of a file; one that cannot be asked is `Unasked`, and the others are."""
    writes: ClassVar[bool] = False
    """Whether the answer is what the model writes behind its only piece, and no logits."""
    draws: ClassVar[bool] = False
    """Whether the answer is an image that is drawn from noise, step by step, and no logits."""

    def example(self, text: str, *, keep_lines: bool) -> Example:
        """Return what is asked, cleaned as in training. Raises DataError for a text that asks nothing."""
        return Example(clean(text, keep_lines=keep_lines))

    @abstractmethod
    def prediction(self, asked: Asked) -> Prediction:
        """Return the answer to one text."""
