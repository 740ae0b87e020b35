"""One point for each tensor, from the angle between fine-tunes."""

from __future__ import annotations

from typing import ClassVar, Literal

from typing_extensions import override

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, WithSiblings
from ftlib.merging.methods import ModelStock as ModelStockKernel


class ModelStock(WithSiblings):
    """An alpha per tensor without any labels (Jang et al. 2024, arXiv 2403.19522); one sibling is enough."""

    on_language_models: ClassVar[str] = (
        "Model Stock hardly leaves its base on language models: +0.02 (two fine-tunes) to +0.13 (twelve) on average, "
        "where plain averages came to -0.02 to +1.02 (arXiv 2511.21437: 12 fine-tunes of each of 4 bases, 16 "
        "benchmarks); measure soup beside it"
    )

    kind: Literal["model_stock"] = "model_stock"

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return theta0, the model stock and theta1."""
        merged = Candidate(
            name="model_stock", start=ends.start, end=ends.end, siblings=ends.siblings, merge=ModelStockKernel()
        )
        return (Candidate.of(ends.start), merged, Candidate.of(ends.end))

    @override
    def count(self) -> int:
        return 3
