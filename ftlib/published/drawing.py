"""A published pipeline's images of captions, as PNG files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ftlib.config import BatchKind
from ftlib.data.cleaning import clean
from ftlib.data.formats.captioned_image import caption_ids
from ftlib.errors import DataError, RecipeError
from ftlib.kinds.predictions import DrawnImage
from ftlib.models.pipelines import as_one_model
from ftlib.storage.files import local_errors

STEPS, GUIDANCE = 30, 3.0
"""As of `ftlib.kinds.drawing`, which loads torch."""


class Drawing(NamedTuple):
    """How captions are drawn, and where the files go."""

    folder: Path = Path(".")
    seed: int = 0
    """Of the first image; each further one counts up."""
    steps: int = STEPS
    guidance: float = GUIDANCE


def draw_captions(
    version: Path, kind: BatchKind, captions: Iterable[str], batch_size: int, how: Drawing
) -> Iterator[DrawnImage]:
    """Yield an image for each caption, written as a PNG of its own: `<seed>-<words of the caption>.png`.

    A file that is there is written over, since the same seed draws the same. Raises DataError for a caption without a
    word, RecipeError for steps that the model was not trained with, StorageError where a file cannot be written.
    """
    import torch
    from PIL import Image

    from ftlib.kinds.collate import Collator
    from ftlib.kinds.drawing import draw
    from ftlib.kinds.loading import load_model, load_processor
    from ftlib.models.denoiser import alphas_of

    one = as_one_model(version)
    model: Any = load_model(one, kind)
    processor, collate = load_processor(one), Collator.of(model)
    if how.steps > (most := len(alphas_of(model.config))):
        raise RecipeError(f"--steps: {how.steps}, allowed are 1 to {most}, with which the model was trained")
    with local_errors(how.folder):
        how.folder.mkdir(parents=True, exist_ok=True)
    for first, batch in _batches(captions, batch_size):
        cleaned = [clean(caption, keep_lines=False) for caption in batch]
        if "" in cleaned:
            raise DataError(f"caption {first + cleaned.index('') + 1} is empty; say what is to be drawn")
        inputs = collate({"input_ids": [caption_ids(processor, caption)[0] for caption in cleaned]})
        seeds = [how.seed + first + i for i in range(len(cleaned))]
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        drawn = draw(model, ids, mask, seeds, steps=how.steps, guidance=how.guidance)
        pixels = (drawn * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        for image, caption, seed in zip(pixels, cleaned, seeds, strict=True):
            path = how.folder / f"{seed}-{_words(caption)}.png"
            with local_errors(path):
                Image.fromarray(image).save(path)
            yield DrawnImage(file=str(path), caption=caption, seed=seed, steps=how.steps, guidance=how.guidance)


def _batches(captions: Iterable[str], size: int) -> Iterator[tuple[int, list[str]]]:
    first, batch = 0, list[str]()
    for caption in captions:
        batch.append(caption)
        if len(batch) == size:
            yield first, batch
            first, batch = first + size, []
    if batch:
        yield first, batch


def _words(caption: str) -> str:
    """Return a caption as part of a file's name, of at most 60 characters."""
    return re.sub(r"[^a-z0-9]+", "-", caption.casefold()).strip("-")[:60] or "image"
