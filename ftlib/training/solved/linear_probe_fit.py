"""The linear probe: the head's last linear layer, solved for on features that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from ftlib.errors import TrainingError
from ftlib.kinds.heads.compared import Comparisons
from ftlib.kinds.heads.labels import LabelTargets
from ftlib.kinds.split import PreparedSplit
from ftlib.training.solved.frozen_features import head_features, head_gaps, last_linear
from ftlib.training.tuning.base import Facts, Problem
from ftlib.wording import counted

_SOLVER: dict[str, Any] = {"max_iter": 2000, "tol": 1e-6}

Rows = tuple[Float[np.ndarray, "_ width"], Int[np.ndarray, " _"]]
"""Features and the place of each row's label."""


def fit_probe(problem: Problem, l2: float | Literal["auto"], path: Sequence[float], usual: float) -> Facts:
    """Fit the head on the train split. Raises TrainingError if a label has no training row.

    Runs in one process: the features are one forward pass, the rest is a convex problem of a few thousand numbers.
    `l2: auto` is settled first, of the values of `path` by the validation rows, `usual` without any; the head is then
    what that number alone would have given.
    """
    split, labels = problem.train, problem.labels
    compares = isinstance(split.targets, Comparisons)
    layer = last_linear(problem.model, problem.head, 1 if compares else len(labels), "linear_probe")
    seen = _compared if compares else _labelled
    features, gold = seen(problem, layer, split)
    if absent := sorted(label for i, label in enumerate(labels) if i not in gold):
        raise TrainingError(f"linear_probe: no training row has the label {', '.join(absent)}; remove it or add rows")
    bias: Any = layer.bias  # torch's annotation leaves out that a layer may have none
    count, intercept = (2, False) if compares else (len(labels), bias is not None)
    chosen: Facts = {}
    if l2 == "auto":
        held_out = problem.validation
        l2, chosen = usual, {"l2_chosen_on": "nothing, without validation rows"}
        if len(held_out):
            l2 = best_l2((features, gold), seen(problem, layer, held_out), count, path, intercept=intercept)
            chosen = {"l2_chosen_on": counted(len(held_out), "validation row")}
    weights, biases, loss = solve(features, gold, count, l2, intercept=intercept)
    if compares:  # the one score's, whose constant no comparison tells
        weights, biases = weights[1:] - weights[:1], biases[1:] - biases[:1]
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        if bias is not None:
            bias.copy_(torch.from_numpy(biases))
    return {"final_loss": loss, "l2": l2, **chosen}


def _labelled(problem: Problem, layer: nn.Linear, split: PreparedSplit) -> Rows:
    assert isinstance(split.targets, LabelTargets)
    return head_features(problem.model, layer, split, problem.phase), split.targets.positions


def _compared(problem: Problem, layer: nn.Linear, split: PreparedSplit) -> Rows:
    """Return by how much the features of each row's two texts differ, and whether the first is better.

    Each second row is turned around: a fit needs rows of both labels. Raises TrainingError for a single row.
    """
    gaps = head_gaps(problem.model, layer, split, problem.phase)
    if len(gaps) == 1:
        raise TrainingError("linear_probe: one pair has no best fit; add rows")
    signs = 1 - 2 * (np.arange(len(gaps)) % 2)
    return gaps * signs[:, None].astype(gaps.dtype), (signs > 0).astype(np.int64)


def best_l2(train: Rows, validation: Rows, count: int, path: Sequence[float], *, intercept: bool) -> float:
    """Return the value of `path` whose head has the lowest mean loss on the validation rows; of equals the first.

    Each fit starts from the one before, and the path is left after two values that are no better than the best.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    regression = LogisticRegression(fit_intercept=intercept, warm_start=True, **_SOLVER)
    seen, unseen = train[0].astype(np.float64), validation[0].astype(np.float64)
    losses: dict[float, float] = {}
    for l2 in path:
        fitted: Any = regression.set_params(C=1.0 / l2).fit(seen, train[1])
        losses[l2] = float(log_loss(validation[1], fitted.predict_proba(unseen), labels=np.arange(count)))
        if min(losses.values()) < min([*losses.values()][-2:]):
            break
    return min(losses, key=losses.__getitem__)


def solve(
    features: Float[np.ndarray, "rows width"],
    labels: Int[np.ndarray, " rows"],
    count: int,
    l2: float,
    *,
    intercept: bool,
) -> tuple[Float[np.ndarray, "labels width"], Float[np.ndarray, " labels"], float]:
    """Return weights, biases and the mean loss in nats of multinomial logistic regression.

    Two labels come from the sigmoid's one vector w as (-w/2, w/2), which gives the same probabilities.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss

    regression = LogisticRegression(C=1.0 / l2 if l2 else np.inf, fit_intercept=intercept, **_SOLVER)
    fitted: Any = regression.fit(features.astype(np.float64), labels)
    loss = float(log_loss(labels, fitted.predict_proba(features.astype(np.float64)), labels=np.arange(count)))
    weight, bias = fitted.coef_, np.broadcast_to(fitted.intercept_, (len(fitted.coef_),))
    if count == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float32), bias.astype(np.float32), loss
