"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from ftlib.training.optimizers.base import OptimizerBase

_LOW, _LOWEST = 1 / 25, 1 / 25e4
"""Of the highest rate: where one_cycle begins and ends, as torch's and fastai's."""


def schedule_factor(settings: OptimizerBase, step: int, total: int, plateau: float) -> float:
    """Return the learning rate of `step` (from 0) of `total` as a share of the highest.

    Warm-up is linear and its first step is not 0. linear, cosine and warmup_stable_decay end at `floor` after the last
    step. `plateau` is the factor the plateau schedule has come to; 1 for the others.

        linear, cosine        Loshchilov & Hutter 2017, arXiv 1608.03983; with a floor of 1/32 the first is the slanted
                              triangle of ULMFiT, arXiv 1801.06146
        inverse_sqrt          sqrt(warmup steps / step): Vaswani et al. 2017, arXiv 1706.03762
        warmup_stable_decay   1 - sqrt(share of the decay done): Haegele et al. 2024, arXiv 2405.18392
        one_cycle             Smith & Topin 2018, arXiv 1708.07120
    """
    warmup = math.ceil(settings.warmup * total)
    if settings.schedule == "one_cycle":
        return _one_cycle(step, warmup, total)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if settings.schedule == "linear":
        return _above(settings.floor, 1.0 - progress)
    if settings.schedule == "cosine":
        return _above(settings.floor, 0.5 * (1.0 + math.cos(math.pi * progress)))
    if settings.schedule == "inverse_sqrt":
        scale = max(1, warmup)
        return math.sqrt(scale / (step - warmup + scale))
    if settings.schedule == "warmup_stable_decay":
        falling = min(total - warmup, math.ceil(settings.decay * total))
        done = step - (total - falling)
        return 1.0 if done <= 0 else _above(settings.floor, 1.0 - math.sqrt(done / falling))
    return plateau


def _above(floor: float, factor: float) -> float:
    return floor + (1.0 - floor) * factor


def _one_cycle(step: int, warmup: int, total: int) -> float:
    """Rise by half a cosine up to the last step of warm-up, and fall by another up to the last step of all."""
    top = max(0, warmup - 1)
    if step <= top and top:
        return _along_a_cosine(_LOW, 1.0, step / top)
    return _along_a_cosine(1.0, _LOWEST, (step - top) / max(1, total - 1 - top))


def _along_a_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * share))
