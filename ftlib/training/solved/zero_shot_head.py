"""The zero-shot head: sentences about the labels, embedded, and folded into the layer that makes the logits.

A stock head does not read sentence embeddings: BERT's reads its pooler, RoBERTa's a dense layer of its own, a decoder's
the last token. So the row embeddings e that the sentences are compared with are regressed on what the head does read,
f: e = A f + a by least squares over rows without their labels. Then scale * T (A f + a), with a row of T for each
label, is a linear layer with weight scale * T A and bias scale * T a, which stock transformers loads as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from ftlib.errors import TrainingError
from ftlib.kinds.heads.labels import LabelTargets
from ftlib.kinds.split import PreparedSplit
from ftlib.training.solved.frozen_features import handing_on, head_features, last_linear, over_rows
from ftlib.training.solved.zero_shot_encoders import Ids, Vectors, encoder
from ftlib.training.tuning.base import Facts, Problem
from ftlib.wording import counted

ROWS = 20_000
"""Training rows that the map is fitted on at most, evenly spaced: it has a few hundred numbers for each of them."""
_RIDGES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Of the features' mean variance; by leave-one-out error one is chosen. A weaker one tells hardly more, and its weights
are so large that a step of fine-tuning is below their rounding."""
_ROUNDING = 1e-10
"""Of the vectors' mean square: a variance below it is rounding. A decoder's first token is the same in every text."""


def make_head(
    problem: Problem,
    spoken: Mapping[str, Sequence[str]],
    embedding: Literal["mean", "first", "head"],
    scale: float | Literal["auto"],
    scales: Sequence[float],
    usual: float,
) -> Facts:
    """Write the head's last layer out of what is `spoken` of each label, and return what to record of it.

    `scale: auto` is what the encoder learned; else the value of `scales` that the validation rows choose, `usual`
    without any. Raises RecipeError for sentences that do not tell the labels apart, or that the model cannot read;
    TrainingError for rows that no map can be fitted on.
    """
    model, train, validation, phase = problem.model, problem.train, problem.validation, problem.phase
    if len(train) < 2:
        raise TrainingError(f"zero_shot: a map needs at least 2 training rows, got {len(train)}; add rows")
    layer = last_linear(model, problem.head, len(problem.labels), "zero_shot")
    intercept: Any = layer.bias  # torch's annotation leaves out that a layer may have none
    chosen = np.linspace(0, len(train) - 1, min(ROWS, len(train))).astype(np.int64)
    with handing_on(layer), encoder(problem, embedding) as encodes:
        sentences = encodes.tokenized(spoken)
        directions = label_embeddings(sentences, encodes.embedded)
        features, embedded = over_rows(model, train, phase, encodes.read, chosen)
    if embedding == "head":
        map = Map.onto_itself(features)
    else:
        map = Map.fitted(features, normalized(embedded), intercept=intercept is not None)
    weight, bias = directions @ map.weight, directions @ map.bias
    chosen_on = ""
    if scale == "auto":
        scale, chosen_on = usual, "nothing, without validation rows"
        if encodes.scale is not None:
            scale, chosen_on = encodes.scale, "what its encoder learned"
        elif len(validation):
            unseen = head_features(model, layer, validation, phase) @ weight.T + bias
            scale = best_scale(unseen, gold_of(validation), scales)
            chosen_on = counted(len(validation), "validation row")
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(scale * weight))
        if intercept is not None:
            intercept.copy_(torch.from_numpy(scale * bias))
    return {
        "final_loss": mean_loss(scale * (features @ weight.T + bias), gold_of(train)[chosen]),
        "sentences": sum(len(of_label) for of_label in sentences.values()),
        "scale": scale,
        **({"scale_chosen_on": chosen_on} if chosen_on else {}),
        **({} if map.explained is None else {"explained": round(map.explained, 4)}),
    }


class Map(NamedTuple):
    """What makes of a head's features the embedding that sentences are compared with: `weight @ f + bias`."""

    weight: Float[np.ndarray, "embedding features"]
    bias: Float[np.ndarray, " embedding"]
    explained: float | None
    """The share of the embeddings' variance that it tells, of rows that it was not fitted on; None for no fit."""

    @classmethod
    def fitted(
        cls,
        features: Float[np.ndarray, "rows features"],
        embedded: Float[np.ndarray, "rows embedding"],
        *,
        intercept: bool,
    ) -> Map:
        """Fit it by ridge regression; of `_RIDGES` the one with the least leave-one-out error.

        Raises TrainingError if all rows have the same features, or the same embedding.
        """
        from sklearn.linear_model import RidgeCV

        seen, told = features.astype(np.float64), embedded.astype(np.float64)
        for what, vectors, remedy in (
            ("what the head reads", seen, "give it rows that differ"),
            ("the embedding", told, "give it rows that differ, or another tuning.embedding"),
        ):
            if vectors.var(axis=0).sum() <= _ROUNDING * np.square(vectors).sum(axis=1).mean():
                raise TrainingError(f"zero_shot: {what} is the same for every training row: {remedy}")
        ridges = np.array(_RIDGES) * seen.var(axis=0).mean() * len(seen)
        regression: Any = RidgeCV(alphas=ridges, fit_intercept=intercept).fit(seen, told)
        left = -float(regression.best_score_) / float(told.var(axis=0).mean())
        return cls(regression.coef_, np.broadcast_to(regression.intercept_, told.shape[1]), 1.0 - left)

    @classmethod
    def onto_itself(cls, features: Vectors) -> Map:
        """Divide by the features' root mean square norm, so that a scale means the same for every model."""
        width = features.shape[1]
        size = float(np.sqrt(np.square(features.astype(np.float64)).sum(axis=1).mean()))
        return cls(np.eye(width) / size, np.zeros(width), None)


def label_embeddings(sentences: Mapping[str, Sequence[Ids]], embed: Callable[[Sequence[Ids]], Vectors]) -> Vectors:
    """Return each label's embedding: the mean of its sentences' normalised ones, normalised again."""
    every = normalized(embed([ids for of_label in sentences.values() for ids in of_label]))
    ends = np.cumsum([len(of_label) for of_label in sentences.values()])
    return normalized(np.stack([part.mean(axis=0) for part in np.split(every, ends[:-1])]))


def normalized(vectors: Vectors) -> Vectors:
    """Return each vector divided by its norm, in float64; a vector of zeros as it is."""
    doubled = vectors.astype(np.float64)
    norms = np.linalg.norm(doubled, axis=-1, keepdims=True)
    return doubled / np.where(norms, norms, 1.0)


def gold_of(split: PreparedSplit) -> Int[np.ndarray, " rows"]:
    """Return the place of each row's label."""
    assert isinstance(split.targets, LabelTargets)
    return split.targets.positions


def best_scale(
    cosines: Float[np.ndarray, "rows labels"], gold: Int[np.ndarray, " rows"], scales: Sequence[float]
) -> float:
    """Return the scale of the lowest mean loss; of equals the first."""
    return min(scales, key=lambda scale: mean_loss(scale * cosines, gold))


def mean_loss(logits: Float[np.ndarray, "rows labels"], gold: Int[np.ndarray, " rows"]) -> float:
    """Return the mean cross-entropy in nats."""
    from scipy.special import log_softmax

    return -float(log_softmax(logits, axis=1)[np.arange(len(gold)), gold].mean())
