"""GPUs by name, with what their vendors' data sheets say: for a plan of a run on a card that is not here."""

from __future__ import annotations

import re
from typing import NamedTuple

from ftlib.errors import RecipeError


class Card(NamedTuple):
    """One GPU."""

    name: str
    memory: int
    """Bytes; sheets round down, and a driver shows a little more."""
    bf16_flops: float | None
    """Dense bf16 operations per second, at most; None where bf16 is not computed."""

    def is_called(self, name: str) -> bool:
        """Say whether this is what a driver calls so: `NVIDIA A100-SXM4-80GB` is A100-80, `NVIDIA L40S` L40S-48.

        A name without a memory is the one card of its model; where there are several it is none of them.
        """
        words = re.findall(r"[a-z0-9]+", name.lower().replace("rtx ", "rtx"))
        model, _, gigabytes = self.name.lower().partition("-")
        if model not in words:
            return False
        if memory := [word for word in words if re.fullmatch(r"\d+gb", word)]:
            return f"{gigabytes}gb" in memory
        return [other.lower().partition("-")[0] for other in CARDS].count(model) == 1


def _card(name: str, gigabytes: int, bf16_teraflops: float | None) -> Card:
    return Card(name, gigabytes * 10**9, None if bf16_teraflops is None else bf16_teraflops * 1e12)


CARDS = {
    card.name: card
    for card in (
        _card("T4-16", 16, None),
        _card("V100-16", 16, None),
        _card("V100-32", 32, None),
        _card("RTX4090-24", 24, 165.2),
        _card("A10-24", 24, 125.0),
        _card("L4-24", 24, 121.0),
        _card("A40-48", 48, 149.7),
        _card("L40S-48", 48, 362.05),
        _card("A100-40", 40, 312.0),
        _card("A100-80", 80, 312.0),
        _card("H100-80", 80, 989.4),
        _card("H200-141", 141, 989.4),
        _card("B200-180", 180, 2250.0),
        _card("MI300X-192", 192, 1307.4),
    )
}
"""SXM or OAM boards where there are several, without structured sparsity."""


def find_card(name: str) -> Card:
    """Return a card by its name, in any case. Raises RecipeError, with the names there are."""
    by_name = {card_name.lower(): card for card_name, card in CARDS.items()}
    if (card_of_name := by_name.get(name.lower())) is None:
        raise RecipeError(f"--card: got {name!r}, allowed are {', '.join(CARDS)}")
    return card_of_name
