"""One row of the table of kinds of batch: every word by which one kind differs from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ftlib.config import BatchKind
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.predictions import Predictor

if TYPE_CHECKING:
    from ftlib.kinds.heads.base import Head


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of batch. No field has a default: a row that leaves one out cannot be imported."""

    name: BatchKind
    taught_as: BatchKind
    """The word that objectives need and metrics read: its own name, or that of the kind whose targets and answers it
    shares, as images with one label each are taught and told like texts."""

    head: Callable[[], Head]
    """Loads what is asked of a model in memory; needs torch."""
    outcomes: type[Outcomes]
    """The table of what a model said about a split's rows."""
    predictor: type[Predictor] | None
    """How a published model answers a user's text; None where it goes on from any text, as stock `generate` does."""

    least_labels: int
    """Labels that the training rows must name at least; 0 where targets are not labels of a closed set."""
    whole_tags: bool
    """Whether labels are IOB2 tags, so that a type has both of them though the rows may show one."""
    modality: Literal["text", "images"]
    """What a row is made from: a text, which the model's tokenizer cuts and batches fill up, or an image of one size,
    which its image processor makes."""
    language: bool
    """Whether a language model answers, which has no head of its own: it predicts the last `supervised` tokens of a
    row, or those that its targets mark, one by one. One model answers all such kinds that it can be loaded for; to a
    causal one a chat template may spell special tokens in their texts."""
    vocabulary: bool
    """Whether what is said of a token is any token of the model's own vocabulary, by a head that models of this class
    bring with their weights, often tied to the embedding: no labels ask for another, and an adapter copies none."""
    pools: bool
    """Whether a text's answer is one vector, the mean of what the model says of its tokens, without any head."""
    decodes: bool
    """Whether an encoder reads a row's source and a decoder writes its target: two sequences of tokens, and only models
    of both halves. Other language models read and write one sequence, and no encoder-decoder is asked for it."""
    packs: bool
    """Whether rows can lie one behind the other in one, told apart by `position_ids`: what a row is taught lies in its
    own tokens, and the model asks nothing of the row as a whole."""
    answers_by_token: bool
    """Whether there is an answer for every token, and none for the row as a whole."""
    reads_one_place: bool
    """Whether the head reads one place of a row, which padding and end tokens can move; others read every token."""
    pairs: bool
    """Whether a row is two texts, which `token_type_ids` tell apart."""
    prompts: bool
    """Whether a row begins with a prompt that the model can go on from."""
    names_problem: bool
    """Whether a model's config must say its `problem_type`: older heads of a single label say none."""
    outputs: int | None
    """Outputs that the head has whatever the labels are; None where they follow from the labels, or the class."""

    auto_class: str
    """The class of transformers that loads a model, as users write it."""
    architectures: tuple[str, ...]
    """How the names of such models' own classes end."""
    task_type: str | None
    """peft's TaskType, by name; None where it has none for such models, and wraps them as they are."""

    pipeline: str
    """The Hub's name of the task; it has none for several labels or a number."""
    title: str
    """Ours."""
    answers: str
    """What of its labels a model says; empty without labels."""
    snippet: str
    """Python of stock transformers that asks as training did (`ftlib.kinds.snippets`)."""
    note: str
    """What to know of the snippet's answer, in Markdown; may be empty."""

    @property
    def size_unit(self) -> str:
        """Return what a row's size counts: a text's tokens, or patches of 16 x 16 pixels of an image."""
        return "tokens" if self.modality == "text" else "patches"

    @property
    def diverges_by(self) -> Literal["row", "token"] | None:
        """Return per what an answer is one of several that exclude each other; None where there is no such answer."""
        return self.outcomes.diverges_by

    @property
    def has_places(self) -> bool:
        """Say whether targets are places in an image, which move with its pixels."""
        return self.outcomes.has_places

    @property
    def has_distribution(self) -> bool:
        """Say whether a model gives such answers as a distribution that one can be drawn from."""
        return self.outcomes.has_distribution

    @property
    def answers_untrained(self) -> bool:
        """Say whether the model that is found answers such rows already, since it brings its head, or needs none."""
        return self.vocabulary or self.pools

    @property
    def labeled(self) -> bool:
        """Say whether targets are of a closed set of labels, which training finds and evaluation keeps to."""
        return self.least_labels > 0
