"""A published version in memory, asked again and again: treated as in training, loaded once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from ftlib.config import BatchKind
from ftlib.data.inputs import SEGMENTS, Inputs, Marks, row_size
from ftlib.data.processor import Processor
from ftlib.data.rows import Encoded, Example, Piece
from ftlib.errors import DataError, ModelError
from ftlib.kinds.kind import KINDS
from ftlib.kinds.predictions import Asked, ChatPredictor, LabelPredictor, Prediction, Predictor, SpanPredictor, Unasked
from ftlib.kinds.table.row import Kind
from ftlib.models.adapter import ANYWHERE, Bases
from ftlib.models.checkpoint import task_in
from ftlib.published.own_tokens import OwnTokens
from ftlib.recipe.recipe import Recipe
from ftlib.registry.versions import MANIFEST, Manifest
from ftlib.storage.sealed_records import parse
from ftlib.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

    from ftlib.kinds.collate import Collator

Asks = Literal["text", "question", "chat", "image"]
"""What one input is: a line; a question with its context; a user's words or all turns so far; a file."""

ANSWER = 256
"""Tokens that a model writes at most where nobody says."""


class Answered(NamedTuple):
    """What a version said to one text."""

    prediction: Prediction
    measures: dict[str, int]
    """Of a text: `length` in characters as the model was asked it, its own `tokens`, special ones left out, and of
    these those that the vocabulary does not know, `unknown`; of a file what its format measures."""


class LoadedVersion:
    """A pulled version with its weights in memory. One thread asks it at a time."""

    def __init__(
        self,
        folder: Path,
        bases: Bases = ANYWHERE,
        max_new_tokens: int | None = None,
        num_beams: int | None = None,
        task: str | None = None,
        device: str = "cpu",
    ) -> None:
        """Load it to a device of torch's. The other arguments, and what is raised, are `ftlib.published.predict`'s.

        Raises ModelError also for a version that draws: see `ftlib.published.drawing`.
        """
        from ftlib.kinds.collate import Collator
        from ftlib.kinds.loading import load_folder, load_processor
        from ftlib.models.limits import limits_of

        recipe, folder = asked_of(folder, task)
        dataset = recipe.published_dataset()
        self._format, self._kind = dataset.format, answering_kind(folder, recipe)
        assert self._kind.predictor is not None
        if self._kind.predictor.draws:
            raise ModelError(f"{folder} draws images and is no model that answers; use `reglage predict`")
        self._writing = _Writing(
            max_new_tokens or _longest_answer(recipe),
            recipe.beams if num_beams is None else num_beams,
            decodes=self._kind.decodes,
        )
        self._model: Any = load_folder(folder, self._kind.name, bases).to(device)
        self._processor = load_processor(folder)
        self._predictor: Predictor = self._kind.predictor(
            _spelt(self._processor, self._model)
            if self._kind.vocabulary and not self._kind.language
            else _labels(self._model),
            _answer_threshold(recipe),
            dataset.limits,
        )
        self._positions = limits_of(folder).positions if self._predictor.writes else None
        self._inputs = self._format.inputs(self._processor)
        self._own_tokens = None if self._predictor.reads_files else OwnTokens.of(self._processor.tokenizer)
        self._collator = None if self._predictor.writes else Collator.of(self._model)

    @property
    def reads_files(self) -> bool:
        """Say whether what is asked is the path of a file."""
        return self._predictor.reads_files

    @property
    def asks(self) -> Asks:
        """Say what one input is."""
        if self._predictor.reads_files:
            return "image"
        if isinstance(self._predictor, SpanPredictor):
            return "question"
        return "chat" if isinstance(self._predictor, ChatPredictor) else "text"

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of which an answer is one; none of a model that answers otherwise."""
        return self._predictor.labels if isinstance(self._predictor, LabelPredictor) else ()

    def warm(self) -> None:
        """Ask it something, of which only a first token is written: a version that fails at this answers nobody."""
        if self._predictor.reads_files:
            from PIL import Image

            with tempfile.TemporaryDirectory() as folder:
                Image.new("RGB", (64, 64), "gray").save(file := Path(folder, "warm.png"))
                self._warmed(str(file))
            return
        question = json.dumps({"question": "Is it warm?", "context": "It is warm."})
        self._warmed(question if self.asks == "question" else "it is warm [MASK]")

    def _warmed(self, text: str) -> None:
        writing, self._writing = self._writing, self._writing._replace(most=1, beams=1)
        try:
            self.answered([text])
        finally:
            self._writing = writing

    def answers(self, texts: Sequence[str], batch_size: int = 32) -> list[Prediction]:
        """Return one answer per text, in order; texts of like length share a batch. Raises what `predict` raises."""
        return [answered.prediction for answered in self.answered(texts, batch_size)]

    def answered(self, texts: Sequence[str], batch_size: int = 32) -> list[Answered]:
        """Return the answers with what was measured of each text."""
        examples = [self._example(text) for text in texts]
        asked = [one for one in examples if isinstance(one, Example)]
        encoded = self._format.encode(asked, self._processor)
        cuts = [_pieces(one, example) for one, example in zip(encoded, asked, strict=True)]
        heard = iter(self._heard([piece for cut in cuts for piece in cut], batch_size))
        read = iter(zip(cuts, encoded, strict=True))
        found: list[Answered] = []
        for example in examples:
            if isinstance(example, Unasked):
                found.append(Answered(example, {}))
                continue
            cut, whole = next(read)
            said = [next(heard) for _ in cut]
            one = Asked(example, cut, (), said[0]) if self._predictor.writes else Asked(example, cut, said)
            found.append(Answered(self._predictor.prediction(one), self._measured(example, whole)))
        return found

    def _example(self, text: str) -> Example | Unasked:
        return self._format.asked(text) or _example(self._predictor, text, keep_lines=self._format.keeps_lines)

    def _heard(self, pieces: Sequence[Piece], batch_size: int) -> list[Any]:
        """Return what the model says of each piece: what it wrote, or its logits."""
        if self._predictor.writes:
            tokenizer = self._processor.tokenizer
            return _written(self._model, tokenizer, pieces, batch_size, self._writing, self._positions)
        assert self._collator is not None
        return _logits(self._model, self._collator, self._kind.name, self._inputs, pieces, batch_size)

    def _measured(self, example: Example, encoded: Encoded) -> dict[str, int]:
        """Return what is measured of what was asked; a token that several windows hold is counted in each."""
        if self._predictor.reads_files:
            return dict(encoded.measures)
        assert self._own_tokens is not None
        tokens, unknown = self._own_tokens.counts([id for piece in encoded.pieces for id in piece.ids])
        known = {"length": len(example.text), "tokens": tokens}
        return known if self._own_tokens.unknown is None else {**known, "unknown": unknown}


def answering_kind(folder: Path, recipe: Recipe) -> Kind:
    """Return the kind that a version is asked as. Raises ModelError for a language model of plain text."""
    kind = KINDS[recipe.published_dataset().format.asked_as]
    if kind.predictor is None:
        raise ModelError(f"{folder} is a language model and has no labels to predict; use transformers' generate")
    return kind


def _example(predictor: Predictor, text: str, *, keep_lines: bool) -> Example | Unasked:
    """Return what is asked; of a file that cannot be, why."""
    try:
        return predictor.example(text, keep_lines=keep_lines)
    except DataError as error:
        if predictor.reads_files:
            return Unasked(file=text, error=str(error))
        raise


def _pieces(encoded: Encoded, example: Example) -> list[Piece]:
    """Return what the model reads of an example. Raises DataError where its tokenizer has no place for it."""
    if encoded.dropped is not None:
        raise DataError(f"{example.text[:60]!r}: {encoded.dropped.reason}, {encoded.dropped.detail}")
    return encoded.pieces


def _longest_answer(recipe: Recipe) -> int:
    return max((evaluation.max_new_tokens for evaluation in recipe.evaluations.values()), default=0) or ANSWER


class _Writing(NamedTuple):
    """How a model writes."""

    most: int
    """Tokens."""
    beams: int
    decodes: bool
    """Whether it writes by a decoder of its own, behind one token, and not behind what it reads."""


def _written(
    model: Any, tokenizer: Any, pieces: Sequence[Piece], batch_size: int, writing: _Writing, positions: int | None
) -> list[str]:
    """Return what the model writes to each piece. Raises DataError where it has no positions left to write."""
    import torch

    from ftlib.kinds.heads.completions import continued

    longest = 1 if writing.decodes else max((len(piece.ids) for piece in pieces), default=0)
    if positions is not None and longest + writing.most > positions:
        raise DataError(
            f"a prompt of {counted(longest, 'token')} leaves no room for {writing.most} more among the {positions} "
            "that the model reads; give less of it, or lower --max-new-tokens"
        )
    answers: dict[int, str] = {}
    device = next(model.parameters()).device
    order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i].ids))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        prompts = [torch.tensor(pieces[row].ids, device=device) for row in rows]
        with torch.inference_mode():
            ends = _ends(pieces[rows[0]])
            written = continued(model, prompts, tokenizer, writing.most, ends, num_beams=writing.beams)
        for row, ids in zip(rows, written, strict=True):
            answers[row] = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [answers[row] for row in range(len(pieces))]


def _ends(piece: Piece) -> set[int]:
    """Return the token that ends a turn, where the piece's format knows one."""
    end = piece.target.get("end") if isinstance(piece.target, dict) else None
    return {end} if isinstance(end, int) else set()


def _logits(
    model: Any, collate: Collator, kind: BatchKind, inputs: Inputs, pieces: Sequence[Piece], batch_size: int
) -> list[Tensor]:
    """Return what the model says of each piece: logits by label, or by token and label, its own tokens alone."""
    import torch

    from ftlib.kinds.padding import own_logits

    answers: dict[int, Tensor] = {}
    sizes = [row_size(inputs, piece.inputs) for piece in pieces]
    order = sorted(range(len(pieces)), key=lambda i: -sizes[i])
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        columns, cells = inputs, {column.name: [pieces[row].inputs[column.name] for row in rows] for column in inputs}
        if all(segments := [_segments(pieces[row]) for row in rows]):
            columns, cells = (*inputs, Marks(name=SEGMENTS)), {**cells, SEGMENTS: segments}
        with torch.inference_mode():
            output = model(**collate(cells, columns))
        own = own_logits(kind, output, [sizes[row] for row in rows])
        answers.update((row, one.cpu().double()) for row, one in zip(rows, own, strict=True))
    return [answers[row] for row in range(len(pieces))]


def _segments(piece: Piece) -> list[int]:
    return piece.target["segments"] if isinstance(piece.target, dict) and "segments" in piece.target else []


def _labels(model: Any) -> tuple[str, ...]:
    return tuple(str(model.config.id2label[i]) for i in range(model.config.num_labels))


def _spelt(processor: Processor, model: Any) -> tuple[str, ...]:
    """Return the token of every logit of a model that answers by its vocabulary."""
    tokenizer: Any = processor.tokenizer
    return tuple(str(token) for token in tokenizer.convert_ids_to_tokens(range(model.config.vocab_size)))


def _answer_threshold(recipe: Recipe) -> float:
    metric = recipe.metric(recipe.select.by)[1]
    return metric.answer_threshold or 0.0


def asked_of(folder: Path, task: str | None) -> tuple[Recipe, Path]:
    """Return the recipe and the folder of a version's task, or its own. Raises ModelError where they do not fit."""
    recipe = recipe_of(folder)
    if task in recipe.tasks:
        return recipe.of_task(task), task_in(folder, str(task))
    if recipe.tasks:
        got = "none" if task is None else repr(task)
        raise ModelError(f"{folder} answers several tasks, got {got}; give --task, one of {', '.join(recipe.tasks)}")
    if task is not None:
        raise ModelError(f"{folder} has one head and no tasks, got {task!r}; leave --task out")
    return recipe, folder


def recipe_of(folder: Path) -> Recipe:
    """Return what the version was made by, or measured by where no run made it."""
    try:
        manifest = parse(Manifest, (folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        return Recipe.model_validate(manifest.lineage.get("recipe") or manifest.lineage.get("measured_by"))
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder} is no version pulled from a registry: {MANIFEST} has no recipe; give one that "
            "`reglage run` published"
        ) from error
