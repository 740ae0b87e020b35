"""The recipe's `retrain`: when to train again, on which rows, and when the result is promoted."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ftlib.config import Config, Fraction
from ftlib.fingerprint import Identified
from ftlib.retraining.drift import DriftLimits


class AllRows(Config):
    """Train on every row there is."""

    kind: Literal["all"] = "all"

    leaves_out: ClassVar[bool] = False
    """Whether some rows may not be used."""


class Window(Config):
    """Train on the newest rows: those at most `days` before the newest training row."""

    kind: Literal["window"] = "window"
    column: str
    """ISO 8601 dates. A row without one is left out."""
    days: float = Field(gt=0.0)
    """The window's length."""

    leaves_out: ClassVar[bool] = True


class Replay(Config):
    """Train on fresh rows and a share of the old ones, against forgetting (experience replay, Rolnick et al. 2019)."""

    kind: Literal["replay"] = "replay"
    share: Fraction = 0.2
    """Of the old training rows; which ones is a function of their text, so it stays from run to run."""

    leaves_out: ClassVar[bool] = True


TrainingRows = Annotated[AllRows | Window | Replay, Field(discriminator="kind")]


class Retrain(Identified):
    """When fresh rows are worth a training, and when its result replaces the champion. See docs/retrain.md.

    It says when, not what: no stage's output depends on it, so it is never part of a fingerprint.
    """

    alias: str = "champion"
    """Which alias of `publish.name` is challenged and moved."""
    min_fresh_rows: int = Field(default=100, ge=1)
    """Rows of files that no training of this model has considered; fewer are left for a later run."""
    max_age_days: float | None = Field(default=None, gt=0.0)
    """Train once the champion is older, if there is anything new at all."""
    drift: DriftLimits = DriftLimits()
    """Fresh rows that have moved further than this from the champion's are worth a training, however few."""
    start: Literal["base", "champion"] = "base"
    """Where the first phase starts: from the recipe's model, or from the champion's weights."""
    rows: TrainingRows = AllRows()
    """Which rows of the training split are used. Held-out rows are always all measured."""
    compare: str | None = None
    """evaluation/metric by which challenger and champion are compared; `select.by` if unset."""
    promote: Literal["not_worse", "better"] = "not_worse"
    """not_worse: the paired interval of the difference leaves out a loss of more than `margin`; better: it leaves out
    zero, on the good side."""
    margin: float = Field(default=0.02, ge=0.0)
    """The largest loss that counts as none, in the metric's unit; only for `not_worse`."""
    labels_may_change: bool = False
    """Let labels appear or vanish against the champion's. Its answers to such rows cannot be compared, so the gates
    alone decide then."""
    approval: Literal["automatic", "by_hand"] = "automatic"
    """by_hand: a promotion waits for a person, and holds nothing meanwhile."""

    def digest(self) -> str:
        """Return the same for every value."""
        return ""
