"""Captioned images: a U-Net says what of a noisy image is noise."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers.models.auto.auto_factory import (
    _BaseAutoModelClass,  # pyright: ignore[reportPrivateUsage]
    _LazyAutoMapping,  # pyright: ignore[reportPrivateUsage]
)
from typing_extensions import override

from ftlib.kinds.batch import Batch
from ftlib.kinds.draws import MEASURED, Draw
from ftlib.kinds.heads.base import Answers, Head, Request
from ftlib.kinds.outcomes import DenoisedOutcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets
from ftlib.models.denoiser import Denoised, Denoiser, DenoiserConfig, alphas_of

AMOUNTS = 4
"""Of noise, that every image is measured at: one timestep in each quarter of the training's."""


class AutoModelForDenoising(_BaseAutoModelClass):
    """Loads folders of one model that a pipeline was made into, as transformers' own classes load theirs."""

    _model_mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())


AutoModelForDenoising.register(DenoiserConfig, Denoiser)


class CaptionedImageHead(Head):
    """What of a noisy image is noise, under its caption. The whole U-Net answers; there is no head to make anew."""

    auto_class: ClassVar[Any] = AutoModelForDenoising
    largest_batch: ClassVar[int] = 4_096

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {}

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> NoiseSeeds:
        return NoiseSeeds()

    @override
    def answers(self, asked: Request) -> DenoisingAnswers:
        return DenoisingAnswers(asked.split)


class NoiseSeeds(Targets):
    """A number for each row that its noise, its timestep and whether its caption is dropped follow from."""

    def __init__(self, draw: Draw = MEASURED) -> None:
        self._draw = draw

    @override
    def drawn(self, draw: Draw) -> NoiseSeeds:
        return self if draw == self._draw else NoiseSeeds(draw)

    @override
    def tensor(self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]) -> Tensor:
        """Return the numbers, as int64."""
        return torch.tensor([int(self._draw.of(int(row)).integers(0, 2**62)) for row in rows], dtype=torch.int64)


class DenoisingAnswers(Answers):
    """Collects squared errors at a few amounts of noise: the same noise and timesteps for every model that is asked."""

    def __init__(self, split: PreparedSplit) -> None:
        self.nll = np.zeros(len(split), np.float64)
        self._errors = np.zeros((AMOUNTS, len(split)), np.float64)

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        assert batch.targets is not None
        seeds = batch.targets.cpu()
        for amount in range(AMOUNTS):
            own = [torch.Generator().manual_seed(int(seed) ^ amount) for seed in seeds]
            at = torch.cat([torch.rand(1, generator=draw) for draw in own]).double() + amount
            steps = len(alphas_of(_plain(model).config))
            timesteps = (at * steps / AMOUNTS).long().clamp(max=steps - 1)
            said: Denoised = model(**batch.inputs, noise_seeds=seeds + amount, timesteps=timesteps)
            self._errors[amount, rows] = squared_errors(said).double().cpu().numpy()
        self.nll[rows] = self._errors[:, rows].mean(axis=0)

    @override
    def outcomes(self, common: Mapping[str, Any]) -> DenoisedOutcomes:
        half = AMOUNTS // 2
        little, much = self._errors[:half].mean(axis=0), self._errors[half:].mean(axis=0)
        ones = np.ones(len(self.nll), np.int64)
        return DenoisedOutcomes(**common, nll=self.nll, targets=ones, little=little, much=much)


def squared_errors(said: Denoised) -> Tensor:
    """Return each row's mean squared error, in fp32."""
    assert said.logits is not None
    assert said.target is not None
    return (said.logits.float() - said.target.float()).square().flatten(1).mean(1)


def _plain(model: Any) -> Any:
    return getattr(model, "get_base_model", lambda: model)()
