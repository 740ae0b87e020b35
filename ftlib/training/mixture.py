"""What a phase trains on, where that is more than one dataset."""

from __future__ import annotations

from ftlib.data.datasets import PreparedDataset
from ftlib.fingerprint import Identified, digest


class Mixture(Identified):
    """Several prepared datasets, in the order of the phase's `parts`, which says how much of each is seen."""

    parts: tuple[PreparedDataset, ...]

    def digest(self) -> str:
        """Return the digest of the parts' rows, in order."""
        return digest([part.digest() for part in self.parts])
