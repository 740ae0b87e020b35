"""What labels are learnt by: weights, focal loss, distillation and R-Drop, each by a formula of its own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ftlib.errors import RecipeError
from ftlib.kinds.batch import Batch, LossSum
from ftlib.training.objectives.classification import Classification
from ftlib.training.objectives.distillation import Distillation
from ftlib.training.objectives.r_drop import RDrop

LABELS = ("bug", "billing", "sales")


class Model(nn.Module):
    """A head with dropout over the inputs, called as transformers' models are."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(4, 3)
        self.config = SimpleNamespace(label2id={label: i for i, label in enumerate(LABELS)})

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.head(self.dropout(input_ids)))


def rows(count: int = 6) -> Batch:
    random = torch.Generator().manual_seed(1)
    return Batch(
        inputs={"input_ids": torch.randn(count, 4, generator=random)},
        supervised=torch.ones(count, dtype=torch.int64),
        targets=torch.arange(count) % 3,
        columns={"teacher": torch.randn(count, 3, generator=random)},
    )


def probabilities(model: Model, batch: Batch, temperature: float = 1.0) -> np.ndarray:
    logits = model(**batch.inputs).logits.detach().double().numpy() / temperature
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def value(loss: LossSum) -> float:
    return float(loss.total.detach())


def test_label_weights_are_torchs() -> None:
    model, batch = Model(), rows()
    found = Classification(label_weights={"sales": 3.0}, label_smoothing=0.1).loss(model, batch)
    weight, targets = torch.tensor([1.0, 1.0, 3.0]), torch.arange(6) % 3
    each = cross_entropy(model(**batch.inputs).logits, targets, reduction="none", label_smoothing=0.1)
    assert value(found) == pytest.approx(float((weight[targets] * each).sum().detach()))
    plain = cross_entropy(model(**batch.inputs).logits, targets, weight=weight, reduction="sum")
    assert value(Classification(label_weights={"sales": 3.0}).loss(model, batch)) == pytest.approx(
        float(plain.detach())
    )
    assert found.count == 6


def test_focal_loss_by_its_formula() -> None:
    model, batch = Model(), rows()
    p = probabilities(model, batch)[np.arange(6), np.arange(6) % 3]
    assert value(Classification(focus=2.0).loss(model, batch)) == pytest.approx(
        float((-((1 - p) ** 2) * np.log(p)).sum())
    )


def test_a_row_that_is_sure_in_fp32_has_a_finite_slope() -> None:
    model, batch = Model(), rows()
    torch.nn.init.normal_(model.head.weight, std=1e3)
    assert 1.0 in model(**batch.inputs).logits.softmax(-1)[range(6), batch.targets]
    Classification(focus=0.5).loss(model, batch).total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())  # pyright: ignore[reportArgumentType]


def test_a_weight_of_no_label_is_refused() -> None:
    with pytest.raises(RecipeError, match="no row has the label 'sale'; the rows have bug, billing"):
        Classification(label_weights={"sale": 2.0}).check_labels(LABELS)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_by_its_formula(temperature: float) -> None:
    model, batch = Model(), rows()
    objective = Distillation(temperature=temperature, soft=0.3)
    teacher = batch.columns["teacher"].double().numpy() / temperature
    t = np.exp(teacher) / np.exp(teacher).sum(-1, keepdims=True)
    s, p = probabilities(model, batch, temperature), probabilities(model, batch)
    hard = -np.log(p[np.arange(6), np.arange(6) % 3]).sum()
    expected = 0.7 * hard + 0.3 * temperature**2 * (t * np.log(t / s)).sum()
    assert value(objective.loss(model, batch)) == pytest.approx(float(expected), rel=1e-5)


def test_at_a_high_temperature_the_gradient_is_that_of_matching_logits() -> None:
    """Hinton et al., equation 4: (z - v) / labels for logits without their means, whatever the temperature."""
    model, batch = Model(), rows()
    logits = model(**batch.inputs).logits.detach().requires_grad_()
    given = Batch(batch.inputs, batch.supervised, batch.targets, columns=batch.columns)
    Distillation(temperature=1000.0, soft=1.0).loss(lambda **_: SimpleNamespace(logits=logits), given).total.backward()
    z, v = (of - of.mean(-1, keepdim=True) for of in (logits.detach(), batch.columns["teacher"]))
    assert logits.grad is not None
    assert torch.allclose(logits.grad, (z - v) / 3, atol=5e-3)


def test_a_student_that_says_what_its_teacher_says_has_nothing_to_learn() -> None:
    model, batch = Model(), rows()
    own = {"teacher": model(**batch.inputs).logits.detach()}
    given = Batch(batch.inputs, batch.supervised, batch.targets, columns=own)
    assert value(Distillation(soft=1.0).loss(model, given)) == pytest.approx(0, abs=1e-6)


def test_r_drop_is_the_mean_cross_entropy_and_the_mean_of_both_divergences() -> None:
    model, batch = Model(dropout=0.5), rows()
    torch.manual_seed(3)
    found = value(RDrop(alpha=2.0).loss(model, batch))
    torch.manual_seed(3)
    logits = model(torch.cat([batch.inputs["input_ids"]] * 2)).logits.detach().double().numpy()
    p, q = np.split(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), 2)
    targets = np.arange(6), np.arange(6) % 3
    hard = -(np.log(p[targets]) + np.log(q[targets])).sum() / 2
    apart = ((p * np.log(p / q)).sum() + (q * np.log(q / p)).sum()) / 2
    assert found == pytest.approx(float(hard + 2.0 * apart), rel=1e-5)
    assert apart > 0.1


def test_r_drop_without_dropout_is_cross_entropy() -> None:
    model, batch = Model(), rows()
    assert value(RDrop().loss(model, batch)) == pytest.approx(value(Classification().loss(model, batch)), rel=1e-6)


@pytest.mark.parametrize(
    "objective", [Classification(focus=2.0, label_weights={"bug": 0.5}), Distillation(), RDrop()], ids=lambda o: o.kind
)
def test_the_split_of_a_batch_does_not_change_the_sum(objective: Any) -> None:
    model, batch = Model(), rows()
    parts = [
        Batch(
            {name: values[part] for name, values in batch.inputs.items()},
            batch.supervised[part],
            batch.targets[part] if batch.targets is not None else None,
            columns={name: values[part] for name, values in batch.columns.items()},
        )
        for part in (slice(0, 1), slice(1, 6))
    ]
    whole = objective.loss(model, batch)
    assert sum(value(objective.loss(model, part)) for part in parts) == pytest.approx(value(whole), rel=1e-5)
    assert sum(objective.loss(model, part).count for part in parts) == whole.count
