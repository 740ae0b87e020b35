"""The recipe's `search`: which fields to try, how often, and what the trials are compared by."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ftlib.config import Config
from ftlib.fingerprint import Identified
from ftlib.search.space import Domain


class Halving(Config):
    """Stop trials whose last phase is behind (asynchronous successive halving, Li et al. 2020, arXiv 1810.05934).

    A trial comes to a rung when its last phase has done a share of its steps: `first`, `first * factor` and so on. It
    goes on if its validation loss is among the best 1/`factor` of the trials that came there before it.
    """

    factor: int = Field(default=3, ge=2)
    """Of so many trials one goes on."""
    first: float = Field(default=0.2, gt=0.0, lt=1.0)
    """The share of the last phase's steps behind which trials are first compared."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """Return the shares of the steps behind which trials are compared, ascending; all lie before the end."""
        shares, share = list[float](), self.first
        while share < 1.0:
            shares.append(share)
            share *= self.factor
        return tuple(shares)


class Search(Identified):
    """Which values `reglage search` tries. See docs/search.md.

    It says what to try, not what to do: no stage's output depends on it, so it is never part of a fingerprint.
    """

    space: dict[str, Domain] = {}
    """What each field may be, by its path as `--set` takes it: `phases.tune.optimizer.learning_rate`."""
    trials: int = Field(default=20, ge=1)
    """How many there are in all; the first is the recipe as it is, where its own values lie in the space."""
    metric: str | None = None
    """evaluation/metric by which trials are compared, on the validation split; `select.by` if unset."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """tpe: ten trials at random, then what resembles the good ones (Bergstra et al. 2011). grid: every combination, of
    fields that are no plain ranges."""
    seed: int = 0
    """Of what is proposed. The recipe's own is the trainings'."""
    at_once: int = Field(default=1, ge=1)
    """How many trials go on at a time, each in a process of its own. A trial is proposed without knowing those that go
    on, so this changes which values are tried."""
    halving: Halving | None = None
    """When trials are stopped that are behind; null: never."""
    soup: int = Field(default=1, ge=1)
    """How many of the best trials feed a greedy soup, which is published if it is better than the best; 1: none."""

    def digest(self) -> str:
        """Return the same for every value."""
        return ""

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Search:
        if self.sampler == "grid" and (endless := [name for name, one in self.space.items() if one.every() is None]):
            raise ValueError(
                f"sampler: a grid needs lists, whole numbers or steps, and {', '.join(endless)} has any number between "
                "two; give it a step, or take tpe or random"
            )
        return self
