"""Whether a trial goes on: what its last phase shows at a rung, against the trials that came there before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from ftlib.config import Config
from ftlib.search.search import Halving
from ftlib.search.trial import Look, Trial

_ROUNDING = 1e-9  # an epoch is a quotient

WATCHED = {"validation_loss": 1.0, "validation_reward": -1.0}
"""What a curve may say of validation rows, and its sign as a loss."""


class Rung(Config):
    """One place where trials are compared."""

    share: float
    """Of the last phase's steps."""
    before: tuple[float, ...]
    """The losses of those that came there."""


def rungs(halving: Halving | None, told: Sequence[Trial]) -> tuple[Rung, ...]:
    """Return the rungs that a trial will come to, as the trials that are over left them."""
    if halving is None:
        return ()
    seen = [look for trial in told for look in trial.outcome.looks]
    return tuple(
        Rung(share=share, before=tuple(look.loss for look in seen if look.share == share)) for share in halving.rungs
    )


def goes_on(loss: float, before: Sequence[float], factor: int) -> bool:
    """Say whether a loss is among the best 1/factor of all that came to a rung; of fewer than `factor`, the best."""
    everyone = sorted([*before, loss])
    return loss <= everyone[max(1, len(everyone) // factor) - 1]


def looks_of(records: Iterable[Mapping[str, float | int]], epochs: float, asked: Sequence[Rung]) -> tuple[Look, ...]:
    """Return what a curve shows at each rung that it came to: the first loss from there on, before the end.

    `epochs` are those of the whole phase, by which a record's share of it is known.
    """
    losses = [
        (float(record["epoch"]) / epochs, int(record["step"]), sign * float(record[name]))
        for record in records
        for name, sign in WATCHED.items()
        if math.isfinite(record.get(name, math.nan))  # a training that breaks says so in its next step
    ]
    found: list[Look] = []
    for rung in asked:
        reached = (one for one in losses if rung.share - _ROUNDING <= one[0] < 1.0 - _ROUNDING)
        if (first := next(reached, None)) is None:
            break
        found.append(Look(share=rung.share, step=first[1], loss=first[2]))
    return tuple(found)
