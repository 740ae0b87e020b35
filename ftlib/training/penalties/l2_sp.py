"""A pull back to where the training started."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ftlib.models.parameter_names import in_modules
from ftlib.training.penalties.base import PenaltyBase, Pull, Start


class L2SP(PenaltyBase):
    """L2-SP (Li, Grandvalet & Davoine 2018, arXiv 1802.01483): alpha/2 * ||w - w0||^2 + beta/2 * ||v||^2.

    w are the trained weights, w0 what they were before step 0, and v the head's where it was fresh: that start means
    nothing. Biases and norms are pulled too; frozen parameters are in neither sum. AdamW's own `weight_decay`, which
    pulls to 0, is another setting: 0 leaves the two pulls alone.
    """

    kind: Literal["l2_sp"]
    alpha: float = Field(default=0.1, ge=0.0)
    """How strongly weights are pulled back to their start."""
    beta: float = Field(default=0.01, ge=0.0)
    """How strongly a fresh head is pulled to 0; a head that was trained before goes by `alpha`."""

    def start(self, at: Start) -> Pull:
        """Copy the weights before step 0."""
        from ftlib.training.penalties.quadratic import Quadratic

        trained = [(name, p) for name, p in at.model.named_parameters() if p.requires_grad]
        pulled = [(p, self.alpha, True) for name, p in trained if not in_modules(name, at.fresh)]
        shrunk = [(p, self.beta, False) for name, p in trained if in_modules(name, at.fresh)]
        return Quadratic([*pulled, *shrunk])
