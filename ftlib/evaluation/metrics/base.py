"""What all metrics have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

from ftlib.config import BatchKind, Config
from ftlib.models.reference import ModelRef

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Bool, Float, Int


class MetricBase(Config, ABC):
    """A function of a table of outcomes. Its `kind` is its name, but for one label's."""

    reads: ClassVar[frozenset[BatchKind]]
    """Kinds whose tables it can be computed from."""
    higher_is_better: ClassVar[bool]
    best: ClassVar[float | None] = None
    """What no model is better than, where that is known of the metric."""
    reads_writing: ClassVar[bool] = False
    """Whether it reads what the model wrote after a prompt, so that the evaluation must have it write."""
    reads_reference: ClassVar[bool] = False
    """Whether it reads what a frozen model says of the rows, so that the evaluation must name that `reference`."""
    reads_prompts: ClassVar[bool] = False
    """Whether it reads what was asked as well, so that the table must hold it."""
    package: ClassVar[str | None] = None
    """The module that it needs beyond what is always installed."""
    extra: ClassVar[str] = "generation"
    """Which of our extras brings that."""

    @property
    def name(self) -> str:
        """Return how results, rules and gates call it, after the evaluation's name: shifted/accuracy."""
        return str(type(self).model_fields["kind"].default)

    @property
    def reads_own(self) -> bool:
        """Say whether it reads the rows' own answers or labels, which prompts alone have not."""
        return True

    @property
    def least_samples(self) -> int:
        """Return how many answers a model must draw for each prompt; 0 for a metric that reads none of those."""
        return 0

    @property
    def answer_threshold(self) -> float | None:
        """Return by how much no answer must score above the best text; None for a metric that reads neither."""
        return None

    @property
    def undefined_where(self) -> str:
        """Say what rows that do not define the metric lack, to follow `it is undefined: `."""
        return "there are no rows"

    def may_be_defined(self, rows: int, labels: Mapping[str, int]) -> bool:
        """Say whether so many rows, of which so many have each label, can define it; asked before training."""
        del labels
        return rows > 0

    def compute(self, outcomes: Any) -> float:
        """Return the metric over all rows: by default, that of the resample which has every row once.

        It is nan where the rows do not define it.
        """
        import numpy as np

        return float(self.resampled(outcomes, np.arange(len(outcomes))[None])[0])

    @abstractmethod
    def resampled(
        self,
        outcomes: Any,
        rows: Int[np.ndarray, "resamples rows"],
    ) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample; nan where its rows do not define it."""

    @property
    def asks(self) -> Mapping[str, ModelRef]:
        """Return the frozen models that it asks beside the one that is measured, by name: their bytes count."""
        return {}

    def misfits(self) -> Sequence[str]:
        """Return what it lacks on this machine, a line each: found before anything is trained."""
        return ()

    def signature(self) -> str | None:
        """Return what a value must be cited with, where libraries and settings differ: versions and settings."""
        return None

    def right(self, outcomes: Any) -> Bool[np.ndarray, " rows"] | None:
        """Return which rows are right, if the metric is the share of those; McNemar's test compares such metrics."""
        return None


class MeanOverRows(MetricBase):
    """A metric that every row has by itself: over more of them it is the mean."""

    @abstractmethod
    def per_row(self, outcomes: Any) -> Float[np.ndarray, " rows"]:
        """Return every row's own."""

    def resampled(self, outcomes: Any, rows: Int[np.ndarray, "resamples rows"]) -> Float[np.ndarray, " resamples"]:
        """Return `compute` of every resample."""
        return self.per_row(outcomes)[rows].mean(axis=1)


class ShareOfRight(MeanOverRows):
    """The share of rows that are right."""

    best: ClassVar[float | None] = 1.0

    @abstractmethod
    def right(self, outcomes: Any) -> Bool[np.ndarray, " rows"]:
        """Return which rows are right."""

    @override
    def per_row(self, outcomes: Any) -> Float[np.ndarray, " rows"]:
        return self.right(outcomes).astype("float64")


class OfLabel(MetricBase):
    """A metric of one label against all others; its name is `f1:billing`."""

    label: str
    """One of the model's labels."""

    @property
    @override
    def name(self) -> str:
        return f"{super().name}:{self.label}"
