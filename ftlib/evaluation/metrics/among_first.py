"""What is measured of texts that are found, among the first of them."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows


class AmongFirst(MeanOverRows):
    """A mean over anchors that counts a text among the first `k` of the corpus, and no other.

    Rules and gates call it by its kind and `k`: `ndcg@10`.
    """

    k: int = Field(default=10, gt=0)
    """How many of the texts that are found are looked at."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"retrieved"})
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return f"{super().name}@{self.k}"
