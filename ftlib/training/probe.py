"""The linear probe: the head's last linear layer, solved for on features that are computed once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from ftlib.errors import ModelError, TrainingError
from ftlib.progress import emit
from ftlib.training.batches import PreparedSplit, by_length
from ftlib.training.checkpoints import State
from ftlib.training.collate import Collator
from ftlib.training.group import Group
from ftlib.training.heads.labels import LabelTargets
from ftlib.training.loop import Trained, build_model
from ftlib.training.plan import Plan
from ftlib.tuning.linear_probe import LinearProbe

BATCH = 64


def fit_probe(plan: Plan, tuning: LinearProbe, group: Group) -> Trained:
    """Fit the head on the train split. Raises TrainingError if a label has no training row.

    Runs in one process: the features are one forward pass, the rest is a convex problem of a few thousand numbers.
    """
    started = time.monotonic()
    split = PreparedSplit(Path(plan.data) / "train.arrow", plan.labels)
    assert isinstance(split.targets, LabelTargets)
    gold = split.targets.positions
    if absent := sorted(set(plan.labels) - {plan.labels[i] for i in np.unique(gold)}):
        raise TrainingError(f"linear_probe: no training row has the label {', '.join(absent)}; remove it or add rows")
    model, head = build_model(plan, dropout=None)
    model.to(group.device).eval()
    layer = last_linear(model, head, len(plan.labels))
    features = head_features(model, layer, split, group.device, plan.phase.name)
    intercept: Any = layer.bias  # torch's annotation leaves out that a layer may have none
    weight, bias, loss = solve(features, gold, len(plan.labels), tuning.l2, intercept=intercept is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        if intercept is not None:
            intercept.copy_(torch.from_numpy(bias))
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    facts: dict[str, float | int | str] = {
        "steps": 1,
        "supervised": len(split),
        "final_loss": loss,
        "samples_per_second": len(split) / (time.monotonic() - started),
        "seconds": time.monotonic() - started,
        "world_size": 1,
        "precision": "fp32",
    }
    return Trained(state, State(step=1), frozenset(), facts)


def last_linear(model: nn.Module, head: list[str], labels: int) -> nn.Linear:
    """Return the layer that makes the logits. Raises ModelError if the head ends in none."""
    found = [
        module
        for name in head
        for module in model.get_submodule(name).modules()
        if isinstance(module, nn.Linear) and module.out_features == labels
    ]
    if not found:
        raise ModelError(f"linear_probe: the head ({', '.join(head)}) has no linear layer with {labels} outputs")
    return found[-1]


@torch.inference_mode()
def head_features(
    model: nn.Module, layer: nn.Linear, split: PreparedSplit, device: torch.device, phase: str
) -> Float[np.ndarray, "rows width"]:
    """Return what enters the head's last layer for every row, in order, with dropout off."""
    # The layer hands on what enters it, so the model's answer is what it reads of a row, wherever that stands.
    hook = layer.register_forward_hook(lambda _, inputs, __: inputs[0])
    collate = Collator.of(model, device)
    features = np.empty((len(split), layer.in_features), np.float32)
    done = 0
    for rows in by_length(split.lengths, BATCH):
        batch = split.batch(rows, collate)
        said: Any = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        features[rows] = said.logits.float().cpu().numpy()
        done += len(rows)
        emit(f"train {phase}", done, len(split), "rows")
    hook.remove()
    return features


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

    regression = LogisticRegression(C=1.0 / l2 if l2 else np.inf, fit_intercept=intercept, max_iter=2000, tol=1e-6)
    fitted: Any = regression.fit(features.astype(np.float64), labels)
    loss = float(log_loss(labels, fitted.predict_proba(features.astype(np.float64)), labels=np.arange(count)))
    weight, bias = fitted.coef_, np.broadcast_to(fitted.intercept_, (len(fitted.coef_),))
    if count == 2:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight.astype(np.float32), bias.astype(np.float32), loss
