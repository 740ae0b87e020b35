"""The words by which formats differ for those who read them; a format states those that are not what most say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ftlib.config import BatchKind, Config
from ftlib.data.chat_template import ChatTemplate
from ftlib.data.images.likeness import Sight
from ftlib.data.inputs import TEXT, Inputs
from ftlib.data.processor import ImageProcessor, Processor
from ftlib.data.rows import Example


@dataclass(frozen=True)
class Prompting:
    """How a text becomes a prompt."""

    column: str
    """The column that holds it."""
    separator: str
    """What follows it, as the recipe writes it."""
    reads: str
    """What follows it in what the model reads."""
    prefix: str = ""
    """What stands before it."""


class FormatBase(Config):
    """What a row says, and what it is taught."""

    yields: ClassVar[BatchKind]
    """The kind of batch that its rows make: what objectives need and metrics read."""
    keeps_lines: ClassVar[bool]
    """Whether cleaning leaves line breaks and indentation."""
    names_labels: ClassVar[bool] = False
    """Whether its targets are labels of a closed set, of which every spelling is counted."""
    stratifies: ClassVar[bool] = False
    """Whether rows can be split so that every split has its share of each label."""
    reads_windows: ClassVar[bool] = False
    """Whether a longer text is read in windows that overlap."""
    shows_images: ClassVar[bool] = False
    """Whether its examples are images: there is no text to clean, and near copies are told by what they look like."""

    def sight(self, example: Example) -> Sight | None:
        """Return what an example looks like, by which near copies are told; None for a text."""
        return None

    def measures(self, example: Example) -> Mapping[str, int]:
        """Return what a profile counts of an example, by name, in bins; nothing where that is its text's length."""
        return {}

    def inputs(self, processor: Processor) -> Inputs:
        """Return the columns that its rows have for the model; what they are may depend on the model's processor."""
        return TEXT

    def image_processor(self, processor: Processor) -> ImageProcessor | None:
        """Return what makes its images, with which a model that learnt from them is published; None for text."""
        return None

    def chat_template(self, processor: Processor) -> ChatTemplate | None:
        """Return what writes its rows, and goes with a model that learnt from them; None for rows that are no chats."""
        return None

    @property
    def asks_alone(self) -> bool:
        """Say whether its rows are prompts alone, to which a model's own answers are drawn, written and graded."""
        return False

    @property
    def pairs(self) -> bool:
        """Say whether a row is two texts that are read together, and a question both."""
        return False

    def asked(self, line: str) -> Example | None:
        """Return what a user's line asks, where it is more than a text; None where it is one.

        Raises DataError for a line that is not laid out so.
        """
        return None

    @property
    def reads_turns(self) -> bool:
        """Say whether what is asked may be a list of turns."""
        return False

    @property
    def asked_as(self) -> BatchKind:
        """Return as rows of which kind a model that learnt from its rows is asked by users."""
        return self.yields

    @property
    def may_be_unanswerable(self) -> bool:
        """Say whether a row may have no answer, so that a model learns to say so."""
        return False

    @property
    def prompting(self) -> Prompting | None:
        """Return how a user's text becomes what the model goes on from; None where it goes on from nothing."""
        return None

    def snippet_words(self) -> Mapping[str, str]:
        """Return what the code of a model's card is filled with, beside what all formats say."""
        return {}
