"""What reward models cannot learn from their rows."""

from __future__ import annotations

from collections.abc import Iterator

from ftlib.recipe.parts import RecipeParts
from ftlib.wording import these


def reward_misfits(recipe: RecipeParts) -> Iterator[str]:
    """Say which margins are not there or not learnt."""
    for phase in recipe.phases:
        where, objective = f"phases[{phase.name}]", phase.objective
        scale, centring = (getattr(objective, name, 0.0) for name in ("margin_scale", "centring"))
        if (scale or centring) and not phase.tuning.takes_steps:
            yield (
                f"{where}.objective: margin_scale {scale:g} and centring {centring:g}, but {phase.tuning.kind!r} "
                "solves for the plain likelihood of pairs; set both to 0, or use another tuning"
            )
        formats = {name: recipe.datasets[name].format for name in phase.parts if name in recipe.datasets}
        bare = [name for name, format in formats.items() if getattr(format, "margin", None) is None]
        if scale and bare:
            yield f"{where}.objective.margin_scale: rows of {these(bare)} have no margin; name its column in the format"
