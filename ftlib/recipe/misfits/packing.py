"""Which rows lie in no pack, or why an objective would read them wrong."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.kinds.kind import KINDS
from ftlib.recipe.parts import RecipeParts
from ftlib.wording import these


def packing_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which rows lie in no pack, or why an objective would read them wrong."""
    if recipe.compute.micro_batch_size is not None:
        yield (
            f"compute.pack_tokens: a micro-batch is either packs of {recipe.compute.pack_tokens} tokens or "
            f"{recipe.compute.micro_batch_size} rows; set one of pack_tokens and micro_batch_size to null"
        )
    packed = these(repr(kind.name) for kind in KINDS.values() if kind.packs)
    for phase in recipe.phases:
        if not phase.tuning.packs:
            yield (
                f"compute.pack_tokens: tuning {phase.tuning.kind!r} of phase {phase.name!r} puts its prompt before a "
                "row, and a pack has many in one; set it to null"
            )
        unpacked = [name for name in phase.parts if not KINDS[recipe.datasets[name].format.yields].packs]
        for name in unpacked:
            yield (
                f"compute.pack_tokens: rows of {packed} are packed, those of {name!r}, on which phase {phase.name!r} "
                f"trains, are {recipe.datasets[name].format.yields!r}; set it to null"
            )
        if not unpacked and not getattr(phase.objective, "packs", False):
            yield (
                f"compute.pack_tokens: objective {phase.objective.kind!r} of phase {phase.name!r} does not say that it "
                "reads packed rows; set it to null"
            )
