"""What all metrics have in common."""

from __future__ import annotations

from typing import ClassVar

from ftlib.config import BatchKind, Config


class MetricBase(Config):
    """A function of the table of outcomes. Its `kind` is its name, unless it is about one label."""

    needs: ClassVar[BatchKind]
    higher_is_better: ClassVar[bool]

    @property
    def name(self) -> str:
        """Return how results, rules and gates call it, after the evaluation's name: shifted/accuracy."""
        return str(type(self).model_fields["kind"].default)


class OfLabel(MetricBase):
    """A metric of one label against all others; its name is `f1:billing`."""

    label: str
    """One of the model's labels."""

    @property
    def name(self) -> str:
        """See MetricBase."""
        return f"{super().name}:{self.label}"
