"""Share of rows whose most probable label is right."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.config import BatchKind, Config


class Accuracy(Config):
    """Accuracy, between 0 and 1."""

    kind: Literal["accuracy"] = "accuracy"

    needs: ClassVar[BatchKind] = "labeled"
    higher_is_better: ClassVar[bool] = True
