"""Any number of labels per row: sequence classification, each label a yes or no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from typing_extensions import override

from ftlib.kinds.batch import Batch
from ftlib.kinds.drawn_answers import uniforms
from ftlib.kinds.heads.base import Answers, Request
from ftlib.kinds.heads.labels import positions
from ftlib.kinds.heads.sequence import SequenceHead, logits_of
from ftlib.kinds.outcomes import MultiLabelOutcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets


class MultiLabelHead(SequenceHead):
    """Several labels a row: one logit each, yes or no."""

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {"num_labels": len(labels), "problem_type": "multi_label_classification"}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> MultiLabelTargets:
        column = table["target"]
        lists: Any = column.combine_chunks()
        if isinstance(lists, pa.ChunkedArray):  # what pyarrow makes of no chunks at all
            lists = pa.array([], column.type)
        counts = lists.value_lengths().to_numpy().astype(np.int64)
        named = positions(pa.chunked_array([lists.flatten()]), labels, path)
        return MultiLabelTargets(np.concatenate([[0], counts.cumsum()]), named, len(labels))

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return that of a yes or no for every label, which are independent of each other."""
        logits = model(**batch.inputs).logits.float()
        at = uniforms(random, logits.numel(), logits.device).view_as(logits)
        says = (at < logits.detach().double().sigmoid()).float()
        return -binary_cross_entropy_with_logits(logits, says, reduction="sum")

    @override
    def answers(self, asked: Request) -> MultiLabelAnswers:
        return MultiLabelAnswers(asked.split, asked.labels)


class MultiLabelTargets(Targets):
    """Each row's labels, as positions among the model's; a matrix only of the rows that are asked for."""

    def __init__(self, starts: Int[np.ndarray, " bounds"], named: Int[np.ndarray, " given"], labels: int) -> None:
        self._starts, self._named, self._labels = starts, named, labels

    def matrix(self, rows: Sequence[int] | Int[np.ndarray, " rows"]) -> Bool[np.ndarray, "rows labels"]:
        """Return which of the rows have which labels."""
        gold = np.zeros((len(rows), self._labels), np.bool_)
        for i, row in enumerate(rows):
            gold[i, self._named[self._starts[row] : self._starts[row + 1]]] = True
        return gold

    def tensor(self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return rows x labels of 0 and 1, as float32."""
        return torch.from_numpy(self.matrix(rows)).float()


class MultiLabelAnswers(Answers):
    """Collects a probability of every label."""

    def __init__(self, split: PreparedSplit, labels: tuple[str, ...]) -> None:
        assert isinstance(split.targets, MultiLabelTargets)
        self.nll = np.zeros(len(split), np.float64)
        self._gold, self._labels = split.targets.matrix(range(len(split))), labels
        self._probabilities = np.zeros((len(split), len(labels)), np.float32)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        assert batch.targets is not None
        logits = logits_of(model, batch)
        losses = binary_cross_entropy_with_logits(logits, batch.targets.double(), reduction="none")
        self.nll[rows] = losses.sum(dim=1).cpu().numpy()
        self._probabilities[rows] = logits.sigmoid().float().cpu().numpy()

    @override
    def outcomes(self, common: Mapping[str, Any]) -> MultiLabelOutcomes:
        return MultiLabelOutcomes(
            **common,
            nll=self.nll,
            targets=np.full(len(self.nll), len(self._labels), np.int64),
            labels=self._labels,
            gold=self._gold,
            probabilities=self._probabilities,
        )
