"""The recipe's `evaluations`: what is measured, on which rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import Config
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.samples import Samples
from ftlib.training.phase import Companion


class Evaluation(Config):
    """What is measured, and what it stands for. Selection reads `validation`, the report `test`."""

    dataset: str
    """The dataset of the recipe whose held-out rows are answered."""
    metrics: tuple[Metric, ...]
    """What is computed of the answers."""
    role: Literal["target", "shifted", "retained"] = "target"
    """target: rows like the training rows; shifted: from elsewhere; retained: what the base model could do before."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples behind every interval."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    """Level of every interval: 0.95 is a 95 % interval."""
    max_new_tokens: int = Field(default=0, ge=0)
    """Tokens that a model may write after each prompt; 0 writes nothing."""
    num_beams: int = Field(default=1, ge=1, le=64)
    """Beginnings of an answer that a model keeps while it writes; 1: always its most probable token (greedy)."""

    samples: Samples | None = None
    """Answers that a model draws for each prompt, for metrics that read several; null: none."""
    reference: Companion | None = None
    """The frozen model that rewards of a policy's answers are measured against, as its `scores` are; asked once."""

    introduced: ClassVar[Mapping[str, object]] = {"num_beams": 1, "reference": None, "samples": None}
