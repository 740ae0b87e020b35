"""A published version's answers to texts or images, treated as they were in training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from ftlib.config import BatchKind
from ftlib.data.inputs import SEGMENTS, Inputs, Marks, row_size
from ftlib.data.processor import Processor
from ftlib.data.rows import Encoded, Example, Piece
from ftlib.errors import DataError, ModelError
from ftlib.kinds.kind import KINDS
from ftlib.kinds.predictions import Asked, Prediction, Predictor, Unasked
from ftlib.models.adapter import ANYWHERE, Bases
from ftlib.models.checkpoint import task_in
from ftlib.published.drawing import Drawing, draw_captions
from ftlib.recipe.recipe import Recipe
from ftlib.registry.versions import MANIFEST, Manifest
from ftlib.storage.sealed_records import parse
from ftlib.wording import counted

if TYPE_CHECKING:
    from torch import Tensor

ANSWER = 256
"""Tokens that a model writes at most where nobody says."""
WINDOW = 1024  # texts in memory at once; within it they are batched by length, which spares most of the padding


def reads_files(folder: Path) -> bool:
    """Say whether a pulled version is asked about files. Raises ModelError for a folder that is no version."""
    predictor = KINDS[_recipe(folder).published_format().asked_as].predictor
    return predictor is not None and predictor.reads_files


def draws(folder: Path) -> bool:
    """Say whether a pulled version draws what is asked. Raises ModelError for a folder that is no version."""
    predictor = KINDS[_recipe(folder).published_format().yields].predictor
    return predictor is not None and predictor.draws


def predict(
    folder: Path,
    texts: Iterable[str],
    batch_size: int = 32,
    bases: Bases = ANYWHERE,
    max_new_tokens: int | None = None,
    num_beams: int | None = None,
    task: str | None = None,
    drawing: Drawing | None = None,
) -> Iterator[Prediction]:
    """Yield one answer per text, in order, with memory bounded by `WINDOW` texts, or by `batch_size` images.

    `folder` is a pulled version: its manifest says how training cleaned and cut the text. A text for question answering
    is a JSON object with `question` and `context`; to a model of images it is a file's path, and what cannot be read
    there is answered by `Unasked`. To a model of chats it is what a user says, or a JSON list of all turns so far; what
    it writes is at most `max_new_tokens` long, found by `num_beams`, by default both as in its evaluations. Of several
    tasks it answers as `task`. Raises ModelError for a folder that is none, a language model of plain text, or a task
    that it does not have; DataError for a text that is no question, or no chat.

    A model of images draws what texts say, by `drawing`, into PNG files.

    A version that is an adapter is put over its base, which is looked for by name and compared by digest; `bases`
    is where else.
    """
    recipe, folder = _asked(folder, task)
    dataset = recipe.published_dataset()
    format, kind = dataset.format, KINDS[dataset.format.asked_as]
    if kind.predictor is None:
        raise ModelError(f"{folder} is a language model and has no labels to predict; use transformers' generate")
    if kind.predictor.draws:
        yield from draw_captions(folder, kind.name, texts, batch_size, drawing or Drawing())
        return
    writing = _Writing(
        max_new_tokens or _longest_answer(recipe),
        recipe.beams if num_beams is None else num_beams,
        decodes=kind.decodes,
    )
    from ftlib.kinds.loading import load_folder, load_processor
    from ftlib.models.limits import limits_of

    model = load_folder(folder, kind.name, bases)
    processor = load_processor(folder)
    predictor = kind.predictor(
        _spelt(processor, model) if kind.vocabulary and not kind.language else _labels(model),
        _answer_threshold(recipe),
        dataset.limits,
    )
    positions = limits_of(folder).positions if predictor.writes else None
    inputs, remaining = format.inputs(processor), iter(texts)
    while window := list(itertools.islice(remaining, batch_size if predictor.reads_files else WINDOW)):
        examples = [format.asked(text) or _example(predictor, text, keep_lines=format.keeps_lines) for text in window]
        encoded = iter(format.encode([example for example in examples if isinstance(example, Example)], processor))
        pieces = [_pieces(next(encoded), example) if isinstance(example, Example) else [] for example in examples]
        asked = [piece for cut in pieces for piece in cut]
        if predictor.writes:
            written = iter(_written(model, processor.tokenizer, asked, batch_size, writing, positions))
            for example, cut in zip(examples, pieces, strict=True):
                if isinstance(example, Example):
                    yield predictor.prediction(Asked(example, cut, (), next(written)))
            continue
        logits = iter(_logits(model, kind.name, inputs, asked, batch_size))
        for example, cut in zip(examples, pieces, strict=True):
            if isinstance(example, Unasked):
                yield example
            else:
                yield predictor.prediction(Asked(example, cut, [next(logits) for _ in cut]))


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
    order = sorted(range(len(pieces)), key=lambda i: -len(pieces[i].ids))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        prompts = [torch.tensor(pieces[row].ids) for row in rows]
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
            output = model(**collate(cells, columns))
        own = own_logits(kind, output, [sizes[row] for row in rows])
        answers.update((row, one.double()) for row, one in zip(rows, own, strict=True))
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


def _asked(folder: Path, task: str | None) -> tuple[Recipe, Path]:
    """Return the recipe and the folder of a version's task, or its own. Raises ModelError where they do not fit."""
    recipe = _recipe(folder)
    if task in recipe.tasks:
        return recipe.of_task(task), task_in(folder, str(task))
    if recipe.tasks:
        got = "none" if task is None else repr(task)
        raise ModelError(f"{folder} answers several tasks, got {got}; give --task, one of {', '.join(recipe.tasks)}")
    if task is not None:
        raise ModelError(f"{folder} has one head and no tasks, got {task!r}; leave --task out")
    return recipe, folder


def _recipe(folder: Path) -> Recipe:
    """Return what the version was made by, or measured by where no run made it."""
    try:
        manifest = parse(Manifest, (folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        return Recipe.model_validate(manifest.lineage.get("recipe") or manifest.lineage.get("measured_by"))
    except (OSError, ValidationError) as error:
        raise ModelError(
            f"{folder} is no version pulled from a registry: {MANIFEST} has no recipe; give one that "
            "`reglage run` published"
        ) from error
