"""What is named in a text."""

from __future__ import annotations

from typing_extensions import override

from ftlib.config import Config
from ftlib.data.cleaning import clean
from ftlib.data.iob2 import OUTSIDE, entities
from ftlib.data.rows import Example
from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class FoundEntity(Config):
    """A run of words of one type."""

    type: str
    text: str
    first: int
    """The place of its first word among the text's, counted from 0."""
    end: int
    """The place after its last word."""
    probability: float
    """The mean over its words of their tags' probability."""


class FoundEntities(Prediction):
    """What is named in one text."""

    entities: tuple[FoundEntity, ...]
    words: int
    read: int
    """Words that the model saw; those beyond `max_tokens` are not searched."""

    @override
    def line(self) -> str:
        return "\t".join(f"{entity.type}:{entity.text}" for entity in self.entities)


class EntityPredictor(Predictor):
    """A tag for every word, joined to entities as IOB2 has it."""

    @override
    def example(self, text: str, *, keep_lines: bool) -> Example:
        """Return the text's words, each an entity named by its place: so a token's target says which word it begins."""
        words = tuple(clean(text, keep_lines=keep_lines).split())
        return Example(text, parts=words, target=tuple(f"B-{position}" for position in range(len(words))))

    @override
    def prediction(self, asked: Asked) -> FoundEntities:
        """Return the entities that the most probable tags make; an entity's probability is the mean of its words'."""
        (piece,), words = asked.pieces, asked.example.parts
        tags, sure = [OUTSIDE] * len(words), [1.0] * len(words)
        assert isinstance(piece.target, tuple)
        for word, values in zip(piece.target, asked.logits[0].softmax(dim=-1), strict=False):
            if isinstance(word, str):  # after the piece's tokens, the target has the words that were cut off
                position, best = int(word[2:]), int(values.argmax())
                tags[position], sure[position] = self.labels[best], float(values[best])
        named = (
            FoundEntity(
                type=entity.type,
                text=" ".join(words[entity.first : entity.end]),
                first=entity.first,
                end=entity.end,
                probability=sum(sure[entity.first : entity.end]) / (entity.end - entity.first),
            )
            for entity in entities(tags)
        )
        return FoundEntities(entities=tuple(named), words=len(words), read=piece.supervised)
