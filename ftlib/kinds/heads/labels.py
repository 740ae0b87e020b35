"""One label per row: sequence classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from ftlib.data.identity import places
from ftlib.errors import DataError
from ftlib.kinds.batch import Batch
from ftlib.kinds.drawn_answers import drawn_log_probs, uniforms
from ftlib.kinds.heads.base import Answers, Request
from ftlib.kinds.heads.sequence import SequenceHead, logits_of
from ftlib.kinds.outcomes import LabelOutcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets
from ftlib.wording import some


class LabelHead(SequenceHead):
    """One label a row: one logit each, of which the largest answers."""

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {"num_labels": len(labels), "problem_type": "single_label_classification"}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> LabelTargets:
        return LabelTargets(positions(table["target"], labels, path))

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        logits: Tensor = model(**batch.inputs).logits
        return drawn_log_probs(logits, uniforms(random, len(batch), logits.device)).sum()

    @override
    def answers(self, asked: Request) -> LabelAnswers:
        return LabelAnswers(asked.split, asked.labels)


class LabelTargets(Targets):
    """Each row's label, as its position among the model's."""

    def __init__(self, positions: Int[np.ndarray, " rows"]) -> None:
        self.positions = positions

    def tensor(self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return the positions, one per row."""
        return torch.from_numpy(self.positions[rows])


class LabelAnswers(Answers):
    """Collects probabilities."""

    def __init__(self, split: PreparedSplit, labels: tuple[str, ...]) -> None:
        assert isinstance(split.targets, LabelTargets)
        self.nll = np.zeros(len(split), np.float64)
        self._gold, self._labels = split.targets.positions, labels
        self._probabilities = np.zeros((len(split), len(labels)), np.float32)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        assert batch.targets is not None
        log_probabilities = logits_of(model, batch).log_softmax(dim=-1)
        self.nll[rows] = -log_probabilities.gather(1, batch.targets[:, None])[:, 0].cpu().numpy()
        self._probabilities[rows] = log_probabilities.exp().float().cpu().numpy()

    @override
    def outcomes(self, common: Mapping[str, Any]) -> LabelOutcomes:
        return LabelOutcomes(
            **common,
            nll=self.nll,
            targets=np.ones(len(self.nll), np.int64),
            labels=self._labels,
            gold=self._gold,
            predicted=self._probabilities.argmax(axis=1),
            probabilities=self._probabilities,
        )


def positions(column: pa.ChunkedArray, labels: Sequence[str], path: Path) -> Int[np.ndarray, " rows"]:
    """Return each value's place among the labels, however it is spelt. Raises DataError for one that is not there."""
    encoded = column.combine_chunks().dictionary_encode()
    chunk: Any = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    if not len(chunk):
        return np.zeros(0, np.int64)
    names: list[str] = chunk.dictionary.to_pylist()
    indexes = places(names, labels)
    if unknown := sorted(name for name, index in zip(names, indexes, strict=True) if index is None):
        raise DataError(f"{path}: the model has no label {some([*map(repr, unknown)])}; it has {', '.join(labels)}")
    lookup = np.array(indexes, np.int64)
    return lookup[chunk.indices.to_numpy()]
