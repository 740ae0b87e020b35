"""How far the style of what a pipeline draws of held-out captions is from the images that these rows have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.points import Measured
from benchmarks.evidence.trial import ROOT, ran
from benchmarks.style_distance import distances, style
from ftlib.config import REPORT
from ftlib.data.inputs import Pixels, from_metadata
from ftlib.data.prepared import split_file
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.evidence import Evidence

_AT_ONCE = 16


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Run a recipe, and let its base and its last phase's end draw the captions of an evaluation's test rows.

    `style/distance` is `benchmarks.style_distance`'s, in the features of a classifier of images, over `most` rows: the
    same captions from the same seeds by both.
    """
    overrides = settings["larger_overrides" if settings.get("larger") else "overrides"]
    evidence = Evidence.model_validate(ran(settings["recipe"], tuple(overrides), seed, work)["evidence"])
    rows = split_file(evidence.prepared[settings["dataset"]].path, REPORT)
    asked = {"most": settings["most"], "steps": settings["steps"]}
    ends = {"drawn_before": evidence.checkpoints[0], "drawn": evidence.checkpoints[-1]}
    features = ROOT / settings["features"]
    return Measured(arms={arm: {"style/distance": distance(end, rows, features, **asked)} for arm, end in ends.items()})


def distance(end: Checkpoint, rows: Path, features: Path, *, most: int, steps: int) -> float:
    """Return the mean distance of what a checkpoint draws of a prepared split's captions from the split's own images.

    Rows are spread over the split; each is drawn from its place among them as the seed.
    """
    import pyarrow as pa
    from PIL import Image

    table = pa.ipc.open_file(pa.memory_map(str(rows))).read_all()
    places = np.unique(np.linspace(0, len(table) - 1, min(most, len(table))).astype(int)).tolist()
    column = next(one for one in from_metadata(table.schema.metadata) if isinstance(one, Pixels))
    cells: list[Any] = [table[column.name][at] for at in places]
    shaped = [cell.values.to_numpy().astype(np.uint8).reshape(column.shape).transpose(1, 2, 0) for cell in cells]
    drawn = _drawn(end, [table["input_ids"][at].as_py() for at in places], steps)
    real = style([Image.fromarray(np.ascontiguousarray(one)) for one in shaped], features)
    return float(distances(style([Image.fromarray(one) for one in drawn], features), real).mean())


def _drawn(end: Checkpoint, captions: list[list[int]], steps: int) -> list[Any]:
    """Return the pixels of what a checkpoint draws, height by width by colours."""
    from ftlib.kinds.collate import Collator
    from ftlib.kinds.drawing import draw
    from ftlib.merging.candidates import Candidate
    from ftlib.merging.in_memory import model_of

    model, images = model_of(Candidate.of(end), "captioned_images"), list[Any]()
    for first in range(0, len(captions), _AT_ONCE):
        some = captions[first : first + _AT_ONCE]
        inputs = Collator.of(model)({"input_ids": some})
        seeds = range(first, first + len(some))
        made = draw(model, inputs["input_ids"], inputs["attention_mask"], seeds, steps=steps)
        images += [*np.ascontiguousarray((made * 255).round().byte().permute(0, 2, 3, 1).numpy())]
    return images
