"""What more rows would give: a power law through a metric at several numbers of rows, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field, model_validator

from ftlib.config import Config
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.measured import Estimate, EvalReport
from ftlib.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

EXPONENTS = 0.05, 1.5, 40
"""The least and the largest exponent that is tried, and how many: what was measured elsewhere lies between 0.07 and
0.5, and no estimate of as many parameters as rows falls faster than 1 / rows."""
LEAST = 3
"""Numbers of rows that a law of three parameters is laid through."""


class LearningCurve(Config):
    """On which shares of the training rows the recipe's phases are trained again, to say what more rows would give.

    All phases are, from the first one on that trains on a dataset of the last phase. The smaller shares' rows are among
    the larger ones', and each label keeps its share.
    """

    introduced: ClassVar[Mapping[str, object]] = {}

    shares: tuple[Annotated[float, Field(gt=0.0, lt=1.0)], ...] = (0.25, 0.5)
    """Of the training rows, two or more; the whole is the run's own training."""
    seeds: tuple[int, ...] = ()
    """Other seeds with which each share, and the whole, is trained as well: the interval then counts what seeds do."""

    @model_validator(mode="after")
    def _draws_a_curve(self) -> LearningCurve:
        if len(self.shares) < 2 or len({*self.shares}) < len(self.shares):
            raise ValueError(f"shares: two or more, each once, got {list(self.shares)}")
        if len({*self.seeds}) < len(self.seeds):
            raise ValueError(f"seeds: each once, got {list(self.seeds)}")
        return self

    def trainings(self) -> list[tuple[float, int | None]]:
        """Return the share and the seed of each training, None for the recipe's; the whole is the run's own there."""
        own = [(share, None) for share in sorted(self.shares)]
        return [*own, *((share, seed) for seed in self.seeds for share in (*sorted(self.shares), 1.0))]


class ShareEnd(Config):
    """Where a training on a share of the rows ended."""

    share: float
    seed: int | None
    """None: the recipe's."""
    rows: int
    checkpoint: Checkpoint


class CurveEvidence(Config):
    """What a learning curve is drawn from, beside the last phase's own end."""

    ends: tuple[ShareEnd, ...]
    reports: tuple[EvalReport, ...]
    """Of all of them, on the report split."""


def of_share(phase: str, share: float) -> str:
    """Return what a phase is called that is trained on a share of its rows: `tune-25-percent`."""
    return f"{phase}-{100 * share:g}-percent".replace(".", "-")


@dataclass(frozen=True)
class Extrapolation:
    """A metric by rows, and what it would be at twice the rows. All in the metric's own unit."""

    rows: tuple[int, ...]
    values: tuple[Estimate, ...]
    """At each number of rows."""
    law: tuple[float, float, float]
    """a, b and c of a + b / rows ** c."""
    doubled: Estimate
    """At twice the last number of rows."""
    gain: Estimate
    """By how much that is more than the law at the last number; of a loss it is negative."""
    unsure: str = ""
    """Why nothing can be said, where that is so."""


def extrapolate(
    rows: Sequence[int],
    values: Sequence[Sequence[float]],
    drawn: Sequence[Sequence[Float[np.ndarray, " resamples"]]],
    resampling: Resampling,
    *,
    higher_is_better: bool,
    best: float | None = None,
) -> Extrapolation:
    """Fit value = a + b / rows ** c (Hestness et al. 2017, arXiv 1712.00409), and read it at twice the last rows.

    `values` has the metric at each number of rows, ascending, for each seed, and `drawn` its paired resamples. More
    rows never make the law worse, and it does not go beyond `best`. Each resample has its own fit, c included; where
    there are several seeds, they are drawn as well. Three sizes say little of c (Viering & Loog 2022, arXiv
    2103.10948): that is in the interval. Of fewer nothing is said.
    """
    import numpy as np

    sign = -1.0 if higher_is_better else 1.0
    means = sign * np.array([np.mean(of_seeds) for of_seeds in values])
    resamples = sign * np.stack(
        [_over_seeds(size, np.stack([*of_seeds]), resampling.seed) for size, of_seeds in enumerate(drawn)], axis=1
    )
    measured = [
        resampling.interval(float(sign * mean), sign * of_size[~np.isnan(of_size)])
        for mean, of_size in zip(means, resamples.T, strict=True)
    ]
    resamples = resamples[~np.isnan(resamples).any(axis=1)]  # a law takes a draw's value at every size
    if len({*rows}) < LEAST:
        sizes = ", ".join(f"{count:,}" for count in dict.fromkeys(rows))
        few = f"all shares together have {sizes} rows, and a curve takes {LEAST} sizes"
        none = Estimate(value=None, low=None, high=None, undefined=few)
        return Extrapolation((*rows,), (*measured,), (0.0, 0.0, 0.0), none, none, few)
    floor = None if best is None else sign * best
    spread = resamples.std(axis=0) if len(resamples) else np.ones(len(rows))
    weights = 1.0 / np.maximum(spread, 1e-9 + 1e-3 * spread.max()) ** 2
    relative = np.array([*rows, 2 * rows[-1]], np.float64) / rows[-1]
    a, b, c = _fits(means[None], relative[:-1], weights, floor)
    all_a, all_b, all_c = _fits(resamples, relative[:-1], weights, floor)

    def at(place: int) -> Estimate:
        """Read the law at a place of `relative`."""
        whole = sign * (a[0] + b[0] * relative[place] ** -c[0])
        return resampling.interval(float(whole), sign * (all_a + all_b * relative[place] ** -all_c))

    gained = sign * b[0] * (2.0 ** -c[0] - 1.0), sign * all_b * (2.0**-all_c - 1.0)
    gain = resampling.interval(float(gained[0]), gained[1])
    law = float(sign * a[0]), float(sign * b[0] * rows[-1] ** c[0]), float(c[0])
    unsure = _unsure(means, gain)
    return Extrapolation((*rows,), (*measured,), law, at(len(rows)), gain, unsure)


def _unsure(means: Float[np.ndarray, " sizes"], gain: Estimate) -> str:
    """Say why a curve says nothing; empty where it does."""
    numbers = gain.numbers()
    if numbers is None or any(mean != mean for mean in means):
        return "the metric is undefined on some of these rows"
    if any(later >= earlier for earlier, later in pairwise(means)):
        return "it did not improve from each number of rows to the next"
    if min(abs(numbers[0]), abs(numbers[2])) < 1e-6:
        return "the interval holds no change at all"
    return ""


def _over_seeds(size: int, drawn: Float[np.ndarray, "seeds resamples"], seed: int) -> Float[np.ndarray, " resamples"]:
    """Return the mean over seeds of each resample, in which seeds are drawn, too, where there are several.

    Of so few seeds a bootstrap shows (seeds - 1) / seeds of the variance: deviations are stretched to the whole.
    """
    import numpy as np

    seeds, resamples = drawn.shape
    if seeds == 1:
        return drawn[0]
    which = np.random.default_rng([seed, size, seeds]).integers(0, seeds, (seeds, resamples))
    mean, redrawn = drawn.mean(axis=0), np.take_along_axis(drawn, which, axis=0).mean(axis=0)
    return mean + (seeds / (seeds - 1)) ** 0.5 * (redrawn - mean)


def _fits(
    values: Float[np.ndarray, "draws sizes"],
    relative: Float[np.ndarray, " sizes"],
    weights: Float[np.ndarray, " sizes"],
    floor: float | None,
) -> tuple[Float[np.ndarray, " draws"], Float[np.ndarray, " draws"], Float[np.ndarray, " draws"]]:
    """Return a, b >= 0 and c of every draw's least squares: a grid of c, the rest in closed form. Less is better."""
    import numpy as np

    share = weights / weights.sum()
    best_error = np.full(len(values), np.inf)
    best = np.zeros((3, len(values)))
    for c in np.geomspace(*EXPONENTS):
        x = relative**-c
        x_mean, y_mean = share @ x, values @ share
        b = ((values - y_mean[:, None]) @ (share * (x - x_mean))) / (share @ (x - x_mean) ** 2)
        b = b.clip(min=0.0)
        a = y_mean - b * x_mean
        if floor is not None:  # where the free fit ends beyond what is possible, it ends there
            low = a < floor
            a = np.where(low, floor, a)
            b = np.where(low, ((values - floor) @ (share * x)) / (share @ x**2), b).clip(min=0.0)
        error = ((values - a[:, None] - b[:, None] * x) ** 2) @ share
        closer = error < best_error - 1e-15
        best_error = np.where(closer, error, best_error)
        best = np.where(closer, np.stack([a, b, np.full(len(values), c)]), best)
    return best[0], best[1], best[2]
