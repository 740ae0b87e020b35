"""What a phase trains on, where that is more than one dataset, and how much of each is seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset
from ftlib.fingerprint import Identified, digest


class Mixture(Identified):
    """Several prepared datasets, in the order of the phase's `parts`, which says how much of each is seen."""

    parts: tuple[PreparedDataset, ...]

    def digest(self) -> str:
        """Return the digest of the parts' rows, in order."""
        return digest([part.digest() for part in self.parts])


class Mixing(Config):
    """How much of each part is seen, and what a batch is made of (T5, Raffel et al. 2020, arXiv 1910.10683, 3.5.2).

    A part's rate is its weight or, by rows, its weight x min(its training rows, `limit`); its share is
    rate ** (1 / temperature), over the sum of all parts'.
    """

    by: Literal["weights", "rows"] = "weights"
    """What rates follow: the weights of `mixture` alone, or also how many rows a part has (examples-proportional)."""
    limit: int | None = Field(default=None, gt=0)
    """Rows of a part that count at most, by rows: 1 mixes as the weights say, null counts all of them."""
    temperature: float = Field(default=1.0, gt=0.0)
    """1 leaves the rates as they are; the higher, the more alike are the shares."""
    batches: Literal["apart", "mixed"] = "apart"
    """apart: each batch is of one part, and a share is one of the steps. mixed: a batch has rows of all parts, which
    are of one kind, and a share is one of the rows."""

    def shares(self, weights: Mapping[str, float], rows: Mapping[str, int]) -> dict[str, float]:
        """Return each part's share, in the order of `weights`, given its training rows; together they are 1."""
        rates = {name: weight * self._counted(rows[name]) for name, weight in weights.items()}
        largest = max(rates.values())  # or a small temperature would raise rates beyond what a float holds
        raised = {name: (rate / largest) ** (1.0 / self.temperature) for name, rate in rates.items()}
        if self.temperature == 1.0:
            raised = rates
        whole = sum(raised.values())
        return {name: rate / whole for name, rate in raised.items()}

    def _counted(self, rows: int) -> int:
        if self.by == "weights":
            return 1
        return rows if self.limit is None else min(rows, self.limit)
