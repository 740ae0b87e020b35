"""Boxes in an image: object detection by queries, each of which says one box, or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoModelForObjectDetection
from typing_extensions import override

from ftlib.data.row_targets import Boxes
from ftlib.kinds.batch import Batch
from ftlib.kinds.box_loss import NO_BOX, box_losses, check_has_nothing
from ftlib.kinds.heads.base import Answers, Head, Request
from ftlib.kinds.heads.labels import positions
from ftlib.kinds.outcomes import BoxOutcomes
from ftlib.kinds.outcomes.boxes import FoundBox, TrueBox
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets


class BoxHead(Head):
    """Boxes with labels, by transformers' detectors of the DETR family."""

    auto_class: ClassVar[Any] = AutoModelForObjectDetection
    largest_batch: ClassVar[int] = 8_192

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {"num_labels": len(labels)}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> BoxTargets:
        return BoxTargets(table["target"], labels, path)

    @override
    def logits(self, output: Any) -> Tensor:
        """Return rows x (queries x (labels, nothing, and the four numbers of a box)): both are compared and read."""
        return torch.cat([output.logits, output.pred_boxes], dim=-1).flatten(1)

    @override
    def answers(self, asked: Request) -> BoxAnswers:
        return BoxAnswers(asked.split, asked.labels)


class BoxTargets(Targets):
    """Each image's boxes, read from the file when they are asked for."""

    def __init__(self, column: pa.ChunkedArray, labels: Sequence[str], path: Path) -> None:
        self._column = column
        names: list[str] = [name for row in column.to_pylist() for name in row["labels"]]
        unique = [*dict.fromkeys(names)]
        found = positions(pa.chunked_array([pa.array(unique, pa.string())]), labels, path)
        self._places = dict(zip(unique, found.tolist(), strict=True))

    def of(self, row: int) -> Boxes:
        """Return an image's boxes."""
        return cast(Boxes, self._column[row].as_py())

    def tensor(self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return rows x boxes x 5: place among the labels, middle, width and height; `NO_BOX` fills up. No crowds."""
        each = [self._learnt(self.of(int(row))) for row in rows]
        filled = np.full((len(each), max(map(len, each), default=0), 5), float(NO_BOX), np.float32)
        for place, boxes in zip(filled, each, strict=True):
            place[: len(boxes)] = boxes
        return torch.from_numpy(filled)

    @override
    def mirrored(self, targets: Tensor, which: Sequence[bool]) -> Tensor:
        there = torch.tensor(which)[:, None] & (targets[..., 0] != NO_BOX)
        other = targets.clone()
        other[..., 1] = torch.where(there, 1 - targets[..., 1], targets[..., 1])
        return other

    def _learnt(self, row: Boxes) -> np.ndarray:
        boxes = np.array(row["boxes"], np.float64).reshape(-1, 4)
        boxes[:, :2] += boxes[:, 2:] / 2
        places = np.array([self._places[label] for label in row["labels"]], np.float64)
        return np.column_stack([places, boxes])[~np.array(row["crowd"], bool)]


class BoxAnswers(Answers):
    """Collects boxes."""

    def __init__(self, split: PreparedSplit, labels: tuple[str, ...]) -> None:
        assert isinstance(split.targets, BoxTargets)
        self.nll = np.zeros(len(split), np.float64)
        self._targets, self._labels = split.targets, labels
        self._found: list[tuple[FoundBox, ...]] = [()] * len(split)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        output: Any = cast(Any, model)(**batch.inputs)
        check_has_nothing(_config(model), output.logits)
        self.nll[rows] = box_losses(output, batch).double().cpu().numpy()
        for i, row in enumerate(rows):
            self._found[row] = found(output.logits[i], output.pred_boxes[i], self._labels)

    @override
    def outcomes(self, common: Mapping[str, Any]) -> BoxOutcomes:
        return BoxOutcomes(
            **common,
            nll=self.nll,
            targets=np.ones(len(self.nll), np.int64),
            labels=self._labels,
            gold=tuple(_true(self._targets.of(row)) for row in range(len(self.nll))),
            predicted=tuple(self._found),
        )


def found(logits: Tensor, places: Tensor, labels: Sequence[str]) -> tuple[FoundBox, ...]:
    """Return each query's most probable label and its box, the surest first, as transformers' processors read them.

    The score is the label's probability, even where nothing is more probable.
    """
    scores, best = logits.double().softmax(-1)[:, :-1].max(-1)
    order = scores.argsort(descending=True, stable=True)
    boxes = places.double()
    lefts = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], dim=-1)
    told = zip(best[order].tolist(), lefts[order].tolist(), scores[order].tolist(), strict=True)
    return tuple(
        FoundBox(labels[int(label)], x, y, width, height, score) for label, (x, y, width, height), score in told
    )


def _true(row: Boxes) -> tuple[TrueBox, ...]:
    boxes = np.array(row["boxes"], np.float64).reshape(-1, 4).tolist()
    told = zip(row["labels"], boxes, row["crowd"], strict=True)
    return tuple(TrueBox(label, x, y, width, height, crowd) for label, (x, y, width, height), crowd in told)


def _config(model: Any) -> Any:
    plain = getattr(model, "module", model)
    return getattr(plain, "get_base_model", lambda: plain)().config
