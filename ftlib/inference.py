"""A published version's answers to texts, with the text treated as it was in training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ftlib.cleaning import clean
from ftlib.config import Config
from ftlib.errors import ModelError
from ftlib.formats import Format
from ftlib.recipe import Recipe
from ftlib.records import parse
from ftlib.rows import Example
from ftlib.versions import MANIFEST, Manifest

WINDOW = 1024  # texts in memory at once; within it they are batched by length, which spares most of the padding


class Prediction(Config):
    """The most probable label of one text."""

    label: str
    probability: float
    probabilities: dict[str, float]
    """Of every label, in the model's order."""


def predict(folder: Path, texts: Iterable[str], batch_size: int = 32) -> Iterator[Prediction]:
    """Yield one prediction per text, in order, with memory bounded by `WINDOW` texts.

    `folder` is a pulled version: its manifest says how training cleaned and cut the text. Raises ModelError for a
    folder that is none, or a model without labels.
    """
    from ftlib.training.model import load_model, load_tokenizer

    format = _format(folder)
    if format.yields != "labeled":
        raise ModelError(f"{folder} is a language model and has no labels to predict; use transformers' generate")
    model, tokenizer = load_model(folder, "labeled"), load_tokenizer(folder)
    remaining = iter(texts)
    while window := list(itertools.islice(remaining, WINDOW)):
        cleaned = [clean(text, keep_lines=format.keeps_lines) for text in window]
        ids = [encoded.pieces[0].ids for encoded in format.encode([Example(text) for text in cleaned], tokenizer)]
        yield from _window(model, ids, batch_size)


def _window(model: Any, ids: list[Any], batch_size: int) -> list[Prediction]:
    import torch

    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    answers: dict[int, Prediction] = {}
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
        for row, values in zip(rows, logits.double().softmax(dim=-1).tolist(), strict=True):
            answers[row] = _prediction(labels, values)
    return [answers[row] for row in range(len(ids))]


def _prediction(labels: list[str], values: list[float]) -> Prediction:
    best = max(range(len(values)), key=values.__getitem__)
    return Prediction(
        label=labels[best], probability=values[best], probabilities=dict(zip(labels, values, strict=True))
    )


def _format(folder: Path) -> Format:
    """Return how the last phase's rows became tokens."""
    try:
        manifest = parse(Manifest, (folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
        recipe = Recipe.model_validate(manifest.lineage.get("recipe"))
    except (FileNotFoundError, ValidationError) as error:
        raise ModelError(f"{folder} is no version pulled from a registry: {MANIFEST} has no recipe") from error
    return recipe.datasets[recipe.phases[-1].dataset].format
