"""One point for each tensor, from the angle between fine-tunes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Score, WithSiblings
from ftlib.merging.methods import ModelStock as ModelStockKernel
from ftlib.models.checkpoint import Checkpoint


class ModelStock(WithSiblings):
    """An alpha per tensor without any labels (Jang et al. 2024, arXiv 2403.19522); one sibling is enough."""

    kind: Literal["model_stock"] = "model_stock"

    def points(
        self, start: Checkpoint, end: Checkpoint, siblings: tuple[Checkpoint, ...], scores: Mapping[str, Score]
    ) -> tuple[Candidate, ...]:
        """Return theta0, the model stock and theta1."""
        del scores
        merged = Candidate(name="model_stock", start=start, end=end, siblings=siblings, merge=ModelStockKernel())
        return (Candidate.of(start), merged, Candidate.of(end))

    def count(self) -> int:
        """Return how many candidates there will be."""
        return 3
