"""A published version's answers to texts, with the text treated as it was in training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ftlib.config import BatchKind, Config
from ftlib.data.cleaning import clean
from ftlib.data.inputs import SEGMENTS, Inputs, Marks, row_size
from ftlib.data.iob2 import OUTSIDE, entities
from ftlib.data.rows import Example, Piece
from ftlib.errors import DataError, ModelError
from ftlib.evaluation.metrics.answer_scores import AnswerScore
from ftlib.kinds.outcomes.multi_labels import THRESHOLD
from ftlib.recipe.recipe import Recipe
from ftlib.registry.versions import MANIFEST, Manifest
from ftlib.storage.sealed_records import parse

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 1024  # texts in memory at once; within it they are batched by length, which spares most of the padding


class Prediction(Config):
    """What a model says to one text."""

    def line(self) -> str:
        """Return it as one line of fields with tabs between them."""
        raise NotImplementedError


class LabelPrediction(Prediction):
    """The most probable label of one text."""

    label: str
    probability: float
    probabilities: dict[str, float]
    """Of every label, in the model's order."""

    def line(self) -> str:
        """Return the label and its probability."""
        return f"{self.label}\t{self.probability:.4f}"


class MultiLabelPrediction(Prediction):
    """The labels of one text."""

    labels: tuple[str, ...]
    """Those that are at least as probable as not, the most probable first; there may be none."""
    probabilities: dict[str, float]
    """Of every label, in the model's order."""

    def line(self) -> str:
        """Return each label and its probability; nothing where there is none."""
        return "\t".join(f"{label}\t{self.probabilities[label]:.4f}" for label in self.labels)


class ScorePrediction(Prediction):
    """The number of one text."""

    score: float

    def line(self) -> str:
        """Return the number."""
        return f"{self.score:.6g}"


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

    def line(self) -> str:
        """Return it as one line of a terminal."""
        return "\t".join(f"{entity.type}:{entity.text}" for entity in self.entities)


class FoundAnswer(Prediction):
    """Where a text answers a question."""

    answer: str | None
    """None where the text has no answer."""
    probability: float
    """Of its first and its last token together, in the window it was found in; of no answer, in the window that says so
    the least."""
    null_score_diff: float | None
    """By how much no answer scores above the best text. None without any text, and for a model that was not taught that
    there may be no answer."""

    def line(self) -> str:
        """Return it as one line of a terminal."""
        said = "(no answer)" if self.answer is None else " ".join(self.answer.split())
        return f"{said}\t{self.probability:.4f}"


@dataclass(frozen=True)
class _Version:
    """What answers."""

    model: Any
    recipe: Recipe

    @property
    def labels(self) -> list[str]:
        """The model's labels, in its order."""
        return [str(self.model.config.id2label[i]) for i in range(self.model.config.num_labels)]

    @property
    def null_score_diff_threshold(self) -> float:
        """From where on there is no answer: as in the metric that the version was chosen by."""
        metric = self.recipe.metric(self.recipe.select.by)[1]
        return metric.null_score_diff_threshold if isinstance(metric, AnswerScore) else 0.0


def predict(folder: Path, texts: Iterable[str], batch_size: int = 32) -> Iterator[Prediction]:
    """Yield one answer per text, in order, with memory bounded by `WINDOW` texts.

    `folder` is a pulled version: its manifest says how training cleaned and cut the text. A text for question answering
    is a JSON object with `question` and `context`. Raises ModelError for a folder that is none, or a language model;
    DataError for a text that is no question.
    """
    recipe = _recipe(folder)
    format = recipe.datasets[recipe.phases[-1].dataset].format
    if format.yields not in _KINDS:
        raise ModelError(f"{folder} is a language model and has no labels to predict; use transformers' generate")
    from ftlib.kinds.loading import load_model, load_processor

    read, answer = _KINDS[format.yields]
    version, processor = _Version(load_model(folder, format.yields), recipe), load_processor(folder)
    inputs, remaining = format.inputs(processor), iter(texts)
    while window := list(itertools.islice(remaining, WINDOW)):
        examples = [read(text, format.keeps_lines) for text in window]
        pieces = [encoded.pieces for encoded in format.encode(examples, processor)]
        asked = [piece for cut in pieces for piece in cut]
        logits = iter(_logits(version.model, format.yields, inputs, asked, batch_size))
        for example, cut in zip(examples, pieces, strict=True):
            yield answer(version, example, cut, [next(logits) for _ in cut])


def _logits(model: Any, kind: BatchKind, inputs: Inputs, pieces: Sequence[Piece], batch_size: int) -> list[Tensor]:
    """Return what the model says of each piece: logits by label, or by token and label, its own tokens alone."""
    import torch

    from ftlib.kinds.collate import Collator
    from ftlib.kinds.padding import own_logits

    collate = Collator.of(model)
    answers: dict[int, Tensor] = {}
    sizes = [row_size(inputs, piece.inputs) for piece in pieces]
    order = sorted(range(len(pieces)), key=lambda i: -sizes[i])
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        columns, cells = inputs, {column.name: [pieces[row].inputs[column.name] for row in rows] for column in inputs}
        if all(segments := [_segments(pieces[row]) for row in rows]):
            columns, cells = (*inputs, Marks(name=SEGMENTS)), {**cells, SEGMENTS: segments}
        with torch.inference_mode():
            said = model(**collate(cells, columns))
        own = own_logits(kind, said, [sizes[row] for row in rows])
        answers.update((row, one.double()) for row, one in zip(rows, own, strict=True))
    return [answers[row] for row in range(len(pieces))]


def _segments(piece: Piece) -> list[int]:
    return piece.target["segments"] if isinstance(piece.target, dict) else []


def _text(text: str, keep_lines: bool) -> Example:
    return Example(clean(text, keep_lines=keep_lines))


def _label(version: _Version, example: Example, pieces: Sequence[Piece], logits: Sequence[Tensor]) -> LabelPrediction:
    values: list[float] = logits[0].softmax(dim=-1).tolist()
    labels = version.labels
    best = max(range(len(values)), key=values.__getitem__)
    return LabelPrediction(
        label=labels[best], probability=values[best], probabilities=dict(zip(labels, values, strict=True))
    )


def _several(
    version: _Version, example: Example, pieces: Sequence[Piece], logits: Sequence[Tensor]
) -> MultiLabelPrediction:
    found: dict[str, float] = dict(zip(version.labels, logits[0].sigmoid().tolist(), strict=True))
    named = [label for label in sorted(found, key=lambda label: -found[label]) if found[label] >= THRESHOLD]
    return MultiLabelPrediction(labels=tuple(named), probabilities=found)


def _score(version: _Version, example: Example, pieces: Sequence[Piece], logits: Sequence[Tensor]) -> ScorePrediction:
    return ScorePrediction(score=float(logits[0][0]))


def _words(text: str, keep_lines: bool) -> Example:
    """Return the text's words, each an entity named by its place: so a token's target says which word it begins."""
    words = tuple(clean(text, keep_lines=keep_lines).split())
    return Example(text, parts=words, target=tuple(f"B-{place}" for place in range(len(words))))


def _entities(version: _Version, example: Example, pieces: Sequence[Piece], logits: Sequence[Tensor]) -> FoundEntities:
    (piece,), labels, words = pieces, version.labels, example.parts
    tags, sure = [OUTSIDE] * len(words), [1.0] * len(words)
    assert isinstance(piece.target, tuple)
    for word, values in zip(piece.target[: len(piece.ids)], logits[0].softmax(dim=-1), strict=True):
        if word is not None:
            place, best = int(word[2:]), int(values.argmax())
            tags[place], sure[place] = labels[best], float(values[best])
    found = (
        FoundEntity(
            type=entity.type,
            text=" ".join(words[entity.first : entity.end]),
            first=entity.first,
            end=entity.end,
            probability=sum(sure[entity.first : entity.end]) / (entity.end - entity.first),
        )
        for entity in entities(tags)
    )
    return FoundEntities(entities=tuple(found), words=len(words), read=piece.supervised)


class _Question(Config):
    question: str
    context: str


def _question(text: str, keep_lines: bool) -> Example:
    """Return a question and its context from JSON; the context is not cleaned, as in training."""
    try:
        asked = _Question.model_validate_json(text)
    except ValidationError as error:
        raise DataError(
            'a question is a JSON object on a line, {"question": "...", "context": "..."}; '
            f"got {text[:60]!r}: {error.errors()[0]['msg']}"
        ) from error
    return Example(text, parts=(clean(asked.question), asked.context))


def _answer(version: _Version, example: Example, pieces: Sequence[Piece], logits: Sequence[Tensor]) -> FoundAnswer:
    from ftlib.kinds.heads.spans import best_span, null_scores

    windows: list[tuple[float, float, str]] = []
    nothing: list[tuple[float, float]] = []
    for piece, (start, end) in zip(pieces, (one.unbind(dim=-1) for one in logits), strict=True):
        assert isinstance(piece.target, dict)
        of_all = float(start.logsumexp(0) + end.logsumexp(0))
        score, text = best_span(start, end, piece.target["spelt"])
        windows.append((score, of_all, text))
        if piece.target["optional"]:
            nothing.append((float(null_scores(start, end)), of_all))
    score, of_all, text = max(windows, key=lambda window: window[0])
    if not nothing:
        return FoundAnswer(answer=text, probability=exp(score - of_all), null_score_diff=None)
    null, of_null = min(nothing)
    silent = null - score > version.null_score_diff_threshold or not text
    return FoundAnswer(
        answer=None if silent else text,
        probability=exp(null - of_null) if silent else exp(score - of_all),
        null_score_diff=null - score if isfinite(score) else None,
    )


_KINDS: dict[BatchKind, tuple[Callable[[str, bool], Example], Callable[..., Prediction]]] = {
    "labeled": (_text, _label),
    "multi_labeled": (_text, _several),
    "scored": (_text, _score),
    "tagged": (_words, _entities),
    "spans": (_question, _answer),
}
"""How each kind of batch makes an example of a text, and an answer of what the model says."""


def _recipe(folder: Path) -> Recipe:
    """Return what the version was made by."""
    try:
        manifest = parse(Manifest, (folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        return Recipe.model_validate(manifest.lineage.get("recipe"))
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder} is no version pulled from a registry: {MANIFEST} has no recipe; give one that "
            "`reglage run` published"
        ) from error
