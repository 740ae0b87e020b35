"""A reward model in memory, asked as it was trained: prompt, separator, answer, end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from ftlib.data.formats import Format
from ftlib.data.processor import Processor
from ftlib.data.rows import Example
from ftlib.errors import ModelError, first_line
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load, load_processor
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.registry.versions import MANIFEST, Manifest
from ftlib.storage.sealed_records import parse
from ftlib.training.loops.batches import by_length
from ftlib.training.rewards.base import Answered

BATCH = 32

_FORMATS: TypeAdapter[Format] = TypeAdapter(Format)

STOCK = {"kind": "compared_texts", "chosen": "chosen", "rejected": "rejected", "prompt": "prompt"}
"""How a reward model is asked that says nothing of its rows: prompt, line break, answer, end."""


class ScoringModel:
    """A model with a head of one output, frozen, with what makes its inputs."""

    def __init__(self, model: nn.Module, processor: Processor, format: Format) -> None:
        self.model, self._processor, self._format = model.eval().requires_grad_(False), processor, format
        self._collate = Collator.of(model)

    @torch.inference_mode()
    def scores(self, answered: Sequence[Answered]) -> list[float]:
        """Return its one output for each answer. Raises ModelError for one that is not finite."""
        lines = [json.dumps({"prompt": one.prompt, "answer": one.answer}) for one in answered]
        examples = [self._format.asked(line) or Example(line) for line in lines]
        ids = [encoded.pieces[0].ids for encoded in self._format.encode(examples, self._processor)]
        scores = np.zeros(len(ids))
        for rows in by_length(np.array([len(row) for row in ids], np.int64), BATCH):
            inputs = self._collate({"input_ids": [ids[row] for row in rows]})
            scores[rows] = cast("Any", self.model)(**inputs).logits[:, 0].double().cpu().numpy()
        if not np.isfinite(scores).all():
            raise ModelError("the reward model's score is not finite: its weights overflow; give another one")
        return scores.tolist()


def load_reward_model(
    source: FoundModel | Checkpoint, device: torch.device | None = None, asked: Format | None = None
) -> ScoringModel:
    """Load a reward model with how it is `asked`: else as the version's recipe says, or stock, as `STOCK` says.

    Raises ModelError for a folder whose model has another head, or one that a version of another kind holds.
    """
    format = asked or _format_of(source.folder)
    model = load(source, format.yields)
    outputs = getattr(cast("Any", model).config, "num_labels", None)
    if outputs != 1:
        raise ModelError(f"{source.folder} has {outputs} outputs, and a reward model has one; give another model")
    return ScoringModel(model.to(device or "cpu"), load_processor(source.folder), format)


def _format_of(folder: Path) -> Format:
    """Return how a version's rows were laid out, by its manifest. Raises ModelError for one of another kind."""
    if not (folder / MANIFEST).is_file():
        return _FORMATS.validate_python(STOCK)
    manifest = parse(Manifest, (folder / MANIFEST).read_bytes(), str(folder / MANIFEST))
    recipe = cast("Mapping[str, Any]", manifest.lineage.get("recipe") or manifest.lineage.get("measured_by") or {})
    formats = [dataset["format"] for dataset in recipe.get("datasets", {}).values()]
    compared = [format for format in formats if format.get("kind") == STOCK["kind"]]
    if not compared:
        raise ModelError(f"{folder} ({manifest.name}) is no reward model: no dataset of it is {STOCK['kind']}")
    try:
        return _FORMATS.validate_python(compared[0])
    except ValidationError as error:
        raise ModelError(f"{folder / MANIFEST}: {first_line(error)}; pull the version again") from error
