"""The diagonal of a model's Fisher information on rows, as a record beside its file, and the plan that measures it."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from ftlib.artifacts import Artifact
from ftlib.config import BatchKind
from ftlib.models.checkpoint import Checkpoint
from ftlib.training.plan import GroupPlan, Part

FILE = "fisher.safetensors"
"""A float32 tensor for each parameter, by the parameter's name and of its shape."""


class Fisher(Artifact):
    """F_i = the mean over rows x of (d log p(y | x) / d w_i)^2, with y drawn from p(. | x), in `fisher.safetensors`.

    Of several datasets the sum of each one's. log p(y | x) is of all that a row is taught: of a language model the sum
    over the row's supervised tokens.
    """

    content: str
    """The sha256 of the file."""
    weights: str
    """The weights that it was measured at."""
    datasets: tuple[str, ...]
    """The rows' datasets."""
    rows: int
    """How many there were, of all datasets."""
    trace: float
    """The sum over all parameters: how much of log p a small random step costs."""

    @property
    def file(self) -> Path:
        """Return the file."""
        return self.path / FILE

    def digest(self) -> str:
        """Return the digest of the file."""
        return self.content


class FisherPlan(GroupPlan):
    """What one worker needs to know to measure its part; plain data, so it crosses to a Ray worker as JSON."""

    start: Checkpoint
    parts: tuple[Part, ...]
    """The datasets, by name."""
    rows: int
    """Of each dataset, at most."""
    kind: BatchKind
    labels: tuple[str, ...]
    seed: int

    @property
    @override
    def what(self) -> str:
        return "fisher"
