"""Average precision of boxes as COCO measures it, by pycocotools, and of every resample of the images.

pycocotools matches an image's boxes once; which images are drawn how often only changes how matches are counted. So a
resample weighs each box by how often its image was drawn: precision and recall are those of pycocotools on the images
repeated.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError
from ftlib.evaluation.metrics.base import MetricBase
from ftlib.evaluation.metrics.draws import times_drawn
from ftlib.kinds.outcomes import BoxOutcomes

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int

RECALLS = 101
"""Places from 0 to 1 at which COCO reads precision."""
MOST = 100
"""Boxes of an image that count, the surest."""


@dataclass(frozen=True)
class Matches:
    """One label's boxes on all images, the surest first."""

    images: Int[np.ndarray, " found"]
    right: Bool[np.ndarray, "thresholds found"]
    ignored: Bool[np.ndarray, "thresholds found"]
    """Boxes that lie in a crowd: neither right nor wrong."""
    true: Int[np.ndarray, " images"]
    """How many there are in each image."""


class AveragePrecision(MetricBase):
    """The mean over labels, and over how much boxes must overlap, of the average precision of COCO's protocol.

    A label that no image has is left out. Undefined where there is no box.
    """

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"boxed_images"})
    higher_is_better: ClassVar[bool] = True
    package: ClassVar[str | None] = "pycocotools"
    extra: ClassVar[str] = "detection"
    overlaps: ClassVar[tuple[float, ...]]
    """How much of their union two boxes must share to be one, each at least."""

    @property
    @override
    def undefined_where(self) -> str:
        return "there is no box to find"

    @override
    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        return rows > 0 and any(labels.values())

    @override
    def signature(self) -> str | None:
        from importlib.metadata import version

        return f"pycocotools {version('pycocotools')}, area all, {MOST} boxes an image"

    def resampled(
        self, outcomes: BoxOutcomes, rows: Int[np.ndarray, "resamples rows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        import numpy as np

        drawn = times_drawn(rows, len(outcomes))
        of_labels = [*matches(outcomes, self.overlaps)]
        found = np.array([[_average(label, times) for label in of_labels] for times in drawn])
        if not of_labels:
            return np.full(len(rows), np.nan)
        there = ~np.isnan(found)
        total = np.where(there, found, 0.0).sum(axis=1)
        return np.where(there.any(axis=1), total / there.sum(axis=1).clip(min=1), np.nan)


def _average(label: Matches, times: Int[np.ndarray, " images"]) -> float:
    """Return the mean over the thresholds of one label's average precision; nan where no image drawn has one."""
    import numpy as np

    true = int((label.true * times).sum())
    if not true:
        return float("nan")
    weights = times[label.images]
    right = (weights * label.right).cumsum(axis=1)
    wrong = (weights * (~label.right & ~label.ignored)).cumsum(axis=1)
    recall = right / true
    precision = right / np.maximum(right + wrong, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    asked = np.linspace(0.0, 1.0, RECALLS)
    total = 0.0
    for reached, level in zip(recall, envelope, strict=True):
        places = np.searchsorted(reached, asked, side="left")
        total += level[places[places < len(level)]].sum()
    return total / RECALLS / len(recall)


def matches(outcomes: BoxOutcomes, overlaps: tuple[float, ...]) -> Iterator[Matches]:
    """Yield what pycocotools matched, label by label; labels that no image has are left out.

    Raises RecipeError where pycocotools is not installed.
    """
    import numpy as np

    images = len(outcomes)
    for of_label in _by_label(evaluated(outcomes, overlaps), images):
        true, scores, places, right, ignored = np.zeros(images, np.int64), [], [], [], []
        for image, one in enumerate(of_label):
            if one is not None:
                true[image] = (~np.asarray(one["gtIgnore"]).astype(bool)).sum()
                scores.append(np.asarray(one["dtScores"], np.float64))
                places.append(np.full(len(one["dtScores"]), image))
                right.append((one["dtMatches"] > 0) & ~one["dtIgnore"].astype(bool))
                ignored.append(one["dtIgnore"].astype(bool))
        if not true.any():
            continue
        order = np.argsort(-np.concatenate(scores), kind="mergesort")
        yield Matches(
            images=np.concatenate(places)[order].astype(np.int64),
            right=np.concatenate(right, axis=1)[:, order],
            ignored=np.concatenate(ignored, axis=1)[:, order],
            true=true,
        )


def _by_label(evaluation: Any, images: int) -> Iterator[list[Any]]:
    each = evaluation.evalImgs
    for first in range(0, len(each), images):
        yield each[first : first + images]


def evaluated(outcomes: BoxOutcomes, overlaps: tuple[float, ...]) -> Any:
    """Return pycocotools' COCOeval after its `evaluate`. Raises RecipeError where pycocotools is not installed."""
    if importlib.util.find_spec("pycocotools") is None:
        raise RecipeError(
            "map and map50 need the package 'pycocotools', which is not installed; pip install 'reglage[detection]'"
        )
    import numpy as np
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    numbers = {label: i + 1 for i, label in enumerate(outcomes.labels)}
    images, found = [{"id": i + 1} for i in range(len(outcomes))], list[dict[str, Any]]()
    true: list[dict[str, Any]] = []
    for image, (gold, predicted) in enumerate(zip(outcomes.gold, outcomes.predicted, strict=True)):
        for box in gold:
            told = _told(image, numbers[box.label], box)
            true.append({**told, "id": len(true) + 1, "iscrowd": int(box.crowd), "ignore": int(box.crowd)})
        for box in predicted:
            found.append({**_told(image, numbers[box.label], box), "id": len(found) + 1, "score": box.score})
    categories = [{"id": number, "name": label} for label, number in numbers.items()]
    with contextlib.redirect_stdout(io.StringIO()):
        sides: list[Any] = [COCO(), COCO()]
        for side, boxes in zip(sides, (true, found), strict=True):
            side.dataset = {"images": images, "annotations": boxes, "categories": categories}
            side.createIndex()
        evaluation = COCOeval(*sides, iouType="bbox")
        evaluation.params.iouThrs = np.array(overlaps)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0.0, 1e10]], ["all"]
        evaluation.params.maxDets = [MOST]
        evaluation.evaluate()
    return evaluation


def _told(image: int, label: int, box: Any) -> dict[str, Any]:
    # Overlap is the same in shares of the sides as in pixels.
    place = [box.left, box.top, box.width, box.height]
    return {"image_id": image + 1, "category_id": label, "bbox": place, "area": box.width * box.height}
