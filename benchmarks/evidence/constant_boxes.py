"""What a detector is worth that looks at no image: the same boxes on each, those that fit most that are learnt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.points import Measured
from benchmarks.evidence.trial import ran
from ftlib.data.prepared import split_file
from ftlib.evaluation.metrics.map50 import MAP50
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import BoxOutcomes
from ftlib.kinds.outcomes.boxes import FoundBox

_STRIDE, _SIDES = 1 / 16, (0.2, 0.28, 0.36, 0.44)
"""Of the boxes that are tried, in shares of the image."""
_OVERLAP = 0.5


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Return the map50 of the best constant boxes on the test rows of each evaluation of a recipe's run."""
    record = ran(settings["recipe"], (), seed, work)
    prepared, recipe = record["evidence"]["prepared"], record["evidence"]["recipe"]
    labels = tuple(record["evidence"]["checkpoints"][-1]["labels"])
    learnt = _outcomes(prepared[recipe["phases"][-1]["dataset"]], "train", labels)
    said = tuple(_constant(learnt, label, settings["boxes"]) for label in labels)
    boxes = tuple(sorted((box for some in said for box in some), key=lambda box: -box.score))
    values: dict[str, float] = {}
    for name, evaluation in recipe["evaluations"].items():
        asked = _outcomes(prepared[evaluation["dataset"]], "test", labels)
        once = np.arange(len(asked))[None]
        told = replace(asked, predicted=(boxes,) * len(asked))
        values[f"{name}/map50"] = float(MAP50().resampled(told, once)[0])
    return Measured(arms={"constant": values})


def _outcomes(prepared: Mapping[str, Any], split: Any, labels: tuple[str, ...]) -> BoxOutcomes:
    """Return a split's true boxes, and no answers."""
    from ftlib.kinds.heads.boxes import BoxAnswers

    opened = open_split(split_file(Path(prepared["uri"]), split), labels)
    ids = tuple(opened.row_ids.to_pylist())
    return BoxAnswers(opened, labels).outcomes({"row_ids": ids, "slices": {}})


def _constant(learnt: BoxOutcomes, label: str, count: int) -> Iterator[FoundBox]:
    """Yield boxes of a label, each the one that fits most training boxes which none before it fits."""
    true = np.array([box[1:5] for row in learnt.gold for box in row if box.label == label])
    tried = np.array([*_grid()])
    fits = _overlaps(tried, true) >= _OVERLAP
    left = np.ones(len(true), bool)
    for _ in range(count):
        best = int((fits & left).sum(axis=1).argmax())
        score = float((fits[best] & left).sum()) / len(learnt)
        if not score:
            return
        left &= ~fits[best]
        x, y, width, height = tried[best].tolist()
        yield FoundBox(label, x, y, width, height, score)


def _grid() -> Iterator[Sequence[float]]:
    for width in _SIDES:
        for height in _SIDES:
            for x in np.arange(0, 1 - width + 1e-9, _STRIDE):
                for y in np.arange(0, 1 - height + 1e-9, _STRIDE):
                    yield float(x), float(y), width, height


def _overlaps(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Return ours x theirs: the share of their union that two boxes have in common."""
    low = np.maximum(ours[:, None, :2], theirs[None, :, :2])
    high = np.minimum(ours[:, None, :2] + ours[:, None, 2:], theirs[None, :, :2] + theirs[None, :, 2:])
    shared = (high - low).clip(min=0).prod(-1)
    return shared / (ours[:, None, 2:].prod(-1) + theirs[None, :, 2:].prod(-1) - shared)
