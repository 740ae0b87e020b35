"""A published version's answers to texts, with the text treated as it was in training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftlib.cleaning import clean
from ftlib.config import BatchKind, Config
from ftlib.errors import ModelError
from ftlib.formats import Format
from ftlib.iob2 import OUTSIDE, entities
from ftlib.recipe import Recipe
from ftlib.records import parse
from ftlib.rows import Example, Piece
from ftlib.versions import MANIFEST, Manifest

WINDOW = 1024  # texts in memory at once; within it they are batched by length, which spares most of the padding


class Prediction(Config):
    """The most probable label of one text."""

    label: str
    probability: float
    probabilities: dict[str, float]
    """Of every label, in the model's order."""

    def line(self) -> str:
        """Return it as one line of a terminal."""
        return f"{self.label}\t{self.probability:.4f}"


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


class FoundEntities(Config):
    """What is named in one text."""

    entities: tuple[FoundEntity, ...]
    words: int
    read: int
    """Words that the model saw; those beyond `max_tokens` are not searched."""

    def line(self) -> str:
        """Return it as one line of a terminal."""
        return "\t".join(f"{entity.type}:{entity.text}" for entity in self.entities)


def predict(folder: Path, texts: Iterable[str], batch_size: int = 32) -> Iterator[Prediction | FoundEntities]:
    """Yield one answer per text, in order, with memory bounded by `WINDOW` texts.

    `folder` is a pulled version: its manifest says how training cleaned and cut the text. Raises ModelError for a
    folder that is none, or a model without labels.
    """
    from ftlib.training.model import load_model, load_tokenizer

    format = _format(folder)
    if format.yields not in _ANSWERS:
        raise ModelError(f"{folder} is a language model and has no labels to predict; use transformers' generate")
    example, answer = _ANSWERS[format.yields]
    model, tokenizer = load_model(folder, format.yields), load_tokenizer(folder)
    config: Any = model.config
    labels = [config.id2label[i] for i in range(config.num_labels)]
    remaining = iter(texts)
    while window := list(itertools.islice(remaining, WINDOW)):
        examples = [example(clean(text, keep_lines=format.keeps_lines)) for text in window]
        pieces = [encoded.pieces[0] for encoded in format.encode(examples, tokenizer)]
        said = _probabilities(model, [piece.ids for piece in pieces], batch_size)
        yield from (answer(labels, *each) for each in zip(examples, pieces, said, strict=True))


def _probabilities(model: Any, ids: Sequence[Sequence[int]], batch_size: int) -> list[Any]:
    """Return each row's probabilities as nested lists: by label, or by token (padding too) and label."""
    import torch

    answers: dict[int, Any] = {}
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        tokens = torch.zeros(len(rows), len(ids[rows[0]]), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for place, row in enumerate(rows):
            tokens[place, : len(ids[row])] = torch.tensor(ids[row])
            mask[place, : len(ids[row])] = 1
        with torch.inference_mode():
            logits = model(input_ids=tokens, attention_mask=mask).logits
        answers.update(zip(rows, logits.double().softmax(dim=-1).tolist(), strict=True))
    return [answers[row] for row in range(len(ids))]


def _label(labels: Sequence[str], example: Example, piece: Piece, values: list[float]) -> Prediction:
    best = max(range(len(values)), key=values.__getitem__)
    return Prediction(
        label=labels[best], probability=values[best], probabilities=dict(zip(labels, values, strict=True))
    )


def _words(text: str) -> Example:
    """Return the text's words, each an entity named by its place: so a token's target says which word it begins."""
    words = tuple(text.split())
    return Example(text, parts=words, target=tuple(f"B-{place}" for place in range(len(words))))


def _entities(
    labels: Sequence[str], example: Example, piece: Piece, values: Sequence[Sequence[float]]
) -> FoundEntities:
    tags, sure = [OUTSIDE] * len(example.parts), [1.0] * len(example.parts)
    assert isinstance(piece.target, tuple)
    for word, of_token in zip(piece.target[: len(piece.ids)], values, strict=False):  # the values go on over padding
        if word is not None:
            place, best = int(word[2:]), max(range(len(of_token)), key=of_token.__getitem__)
            tags[place], sure[place] = labels[best], of_token[best]
    found = (
        FoundEntity(
            type=entity.type,
            text=" ".join(example.parts[entity.first : entity.end]),
            first=entity.first,
            end=entity.end,
            probability=sum(sure[entity.first : entity.end]) / (entity.end - entity.first),
        )
        for entity in entities(tags)
    )
    return FoundEntities(entities=tuple(found), words=len(example.parts), read=piece.supervised)


_ANSWERS: dict[BatchKind, tuple[Callable[[str], Example], Callable[..., Prediction | FoundEntities]]] = {
    "labeled": (Example, _label),
    "tagged": (_words, _entities),
}
"""How each kind of batch makes an example of a text, and an answer of what the model says."""


def _format(folder: Path) -> Format:
    """Return how the last phase's rows became tokens."""
    try:
        manifest = parse(Manifest, (folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        recipe = Recipe.model_validate(manifest.lineage.get("recipe"))
    except (FileNotFoundError, ValidationError) as error:
        raise ModelError(f"{folder} is no version pulled from a registry: {MANIFEST} has no recipe") from error
    return recipe.datasets[recipe.phases[-1].dataset].format
