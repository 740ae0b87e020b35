"""Every schedule beside the library that people know it from."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import get_inverse_sqrt_schedule, get_linear_schedule_with_warmup, get_wsd_schedule
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.schedule import schedule_factor

TOTAL = 50


def ours(**fields: Any) -> list[float]:
    settings = AdamW.model_validate({"warmup": 0.2, **fields})
    return [schedule_factor(settings, step, TOTAL, plateau=1.0) for step in range(TOTAL)]


def theirs(make: Any, **fields: Any) -> list[float]:
    """The rates of torch's or transformers' scheduler before each step, for a highest rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer, **fields)
    rates = list[float]()
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


AFTER_WARMUP = slice(10, None)
"""Theirs begin warm-up with a step of rate 0, which moves nothing; ours do not."""


def test_linear_equals_transformers() -> None:
    expected = theirs(get_linear_schedule_with_warmup, num_warmup_steps=10, num_training_steps=TOTAL)
    assert ours(schedule="linear")[AFTER_WARMUP] == pytest.approx(expected[AFTER_WARMUP])


def test_a_floor_equals_transformers_min_lr() -> None:
    expected = theirs(
        get_cosine_with_min_lr_schedule_with_warmup, num_warmup_steps=10, num_training_steps=TOTAL, min_lr_rate=0.1
    )
    assert ours(schedule="cosine", floor=0.1)[AFTER_WARMUP] == pytest.approx(expected[AFTER_WARMUP])


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_inverse_sqrt_equals_transformers(warmup: float) -> None:
    steps = int(warmup * TOTAL)
    expected = theirs(get_inverse_sqrt_schedule, num_warmup_steps=steps, timescale=max(1, steps))
    assert ours(schedule="inverse_sqrt", warmup=warmup)[steps:] == pytest.approx(expected[steps:])


def test_warmup_stable_decay_equals_transformers() -> None:
    expected = theirs(
        get_wsd_schedule, num_warmup_steps=10, num_decay_steps=20, num_training_steps=TOTAL, decay_type="1-sqrt"
    )
    found = ours(schedule="warmup_stable_decay", decay=0.4)
    assert found[AFTER_WARMUP] == pytest.approx(expected[AFTER_WARMUP])
    assert found[10:30] == [1.0] * 20
    assert found[31] < 1.0


def test_one_cycle_equals_torch() -> None:
    expected = theirs(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=TOTAL + 1, pct_start=0.2)
    # torch spreads warm-up over total x pct - 1 steps, a fraction; so the two are asked at the same shares.
    found = ours(schedule="one_cycle")
    assert found[0] == pytest.approx(expected[0])
    assert max(found) == 1.0
    assert found[-1] == pytest.approx(1 / 25e4)
    assert found == pytest.approx(expected, abs=0.05)


def test_a_slanted_triangle_is_linear_with_a_floor() -> None:
    """ULMFiT's own formula: cut = T * cut_frac; p = t/cut or 1 - (t - cut)/(T - cut); (1 + p (ratio - 1)) / ratio."""
    cut, ratio = 10, 32
    slanted = [(1 + (1 - (t - cut) / (TOTAL - cut)) * (ratio - 1)) / ratio for t in range(cut, TOTAL)]
    assert ours(schedule="linear", floor=1 / 32)[AFTER_WARMUP] == pytest.approx(slanted)


def test_a_decay_over_everything_leaves_no_stable_part() -> None:
    rates = ours(schedule="warmup_stable_decay", decay=1.0)
    assert rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
