"""A published version's answers to texts or images, treated as they were in training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from ftlib.kinds.kind import KINDS
from ftlib.kinds.predictions import Prediction
from ftlib.models.adapter import ANYWHERE, Bases
from ftlib.published.drawing import Drawing, draw_captions
from ftlib.published.loaded import LoadedVersion, answering_kind, asked_of, recipe_of

WINDOW = 1024  # texts in memory at once; within it they are batched by length, which spares most of the padding


def reads_files(folder: Path) -> bool:
    """Say whether a pulled version is asked about files. Raises ModelError for a folder that is no version."""
    predictor = KINDS[recipe_of(folder).published_format().asked_as].predictor
    return predictor is not None and predictor.reads_files


def draws(folder: Path) -> bool:
    """Say whether a pulled version draws what is asked. Raises ModelError for a folder that is no version."""
    predictor = KINDS[recipe_of(folder).published_format().yields].predictor
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
    recipe, inside = asked_of(folder, task)
    kind = answering_kind(folder, recipe)
    assert kind.predictor is not None
    if kind.predictor.draws:
        yield from draw_captions(inside, kind.name, texts, batch_size, drawing or Drawing())
        return
    version = LoadedVersion(folder, bases, max_new_tokens, num_beams, task)
    remaining = iter(texts)
    while window := list(itertools.islice(remaining, batch_size if version.reads_files else WINDOW)):
        yield from version.answers(window, batch_size)
