"""What an objective may find in a global batch before any loss of it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


@dataclass(frozen=True)
class Prepared:
    """What `prepare` finds in one piece of a global batch, without gradients and with dropout off.

    As with a loss, an objective gives sums and only the loop adds them up: then they do not depend on how the batch is
    split over micro-batches and workers.
    """

    sums: Mapping[str, Tensor]
    """By name; each is added up over all pieces of all ranks. The same names and shapes for every piece."""
    rows: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """By name, what each of the piece's rows comes to, as rows x anything: brought together over all pieces of all
    ranks, in the batch's order. Whole numbers are exact up to 2^53."""
    count: int | None = None
    """Supervised items that the piece's loss will count: of an objective with `counts_known = False`."""
    kept: Any = None
    """What the loss of the same piece is given back as it is."""


NOTHING = Prepared({})


def joined(one: Prepared, other: Prepared) -> Prepared:
    """Return what two passes over one piece found, under names that differ; the second one says what is kept."""
    return Prepared({**one.sums, **other.sums}, {**one.rows, **other.rows}, other.count, other.kept)


@dataclass(frozen=True)
class Context:
    """What `loss` is given of what `prepare` found."""

    sums: Mapping[str, Tensor]
    """Over the whole global batch."""
    kept: Any
    """Of this piece."""
    rows: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """Of every row of the global batch, in its order."""
    places: Int[Tensor, " rows"] | None = None
    """Where this piece's rows stand in that order."""
    draw: tuple[int, ...] = ()
    """What random numbers depend on beside the rows: the phase's seed, the epoch, the part; none while it measures."""
