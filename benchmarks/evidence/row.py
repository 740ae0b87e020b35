"""A claim about a technique, and the arms that are compared to see whether it holds here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import Field, model_validator

from ftlib.config import Config, Name
from ftlib.fingerprint import digest, identify

ROWS = Path(__file__).parent / "rows"


class Arm(Config):
    """One model that is measured: a candidate of a recipe's run; or what is expected without the technique.

    With neither recipe nor `mean_of` it is one whose numbers the row's `measure` returns.
    """

    introduced: ClassVar[Mapping[str, object]] = {"larger": ()}

    recipe: str | None = None
    """The recipe's file, from the repository's root."""
    overrides: tuple[str, ...] = ()
    """What is set otherwise in it, as `reglage run --set` takes it."""
    candidate: str = "chosen"
    """Whose numbers are read: `chosen`, `base`, a phase's name, or `alpha=0.5`."""
    split: Literal["validation", "test"] = "test"
    """Of which split. Points of a line are measured on validation rows, the chosen one and the ends on test rows."""
    mean_of: tuple[str, ...] = ()
    """Other arms, whose mean is taken instead: the straight line between two ends."""
    larger: tuple[str, ...] = ()
    """Overrides of this recipe alone for a machine with more time, behind the row's."""

    @model_validator(mode="after")
    def _is_one(self) -> Arm:
        if self.recipe is not None and self.mean_of:
            raise ValueError("give `recipe` or `mean_of`, got both")
        return self

    @property
    def by_script(self) -> bool:
        """Return whether the row's `measure` says its numbers."""
        return self.recipe is None and not self.mean_of


class Comparison(Config):
    """That one arm is better than another by a metric."""

    metric: str
    """As a recipe names it: `evaluation/metric`; of one slice `evaluation/metric[column=value]`."""
    better: str
    """The arm that should have more of it, or less with `lower`."""
    than: str
    """The arm that it should be better than."""
    lower: bool = False
    """Whether the better arm has less of it, as of a loss."""
    least: float | None = None
    """The difference that the claim needs, in the metric's unit; null: any above zero."""
    effect: float | None = Field(default=None, gt=0.0)
    """The difference that was published, in the metric's unit; null: none was, or not by this metric."""
    again: str | None = None
    """The arm of an independent implementation of what `better` does."""


class Fit(Config):
    """That points which a script measured lie on one polynomial: how well it explains them, as R2."""

    x: str
    """What the points' x is, in words."""
    y: str
    """What their y is."""
    of: tuple[str, ...]
    """The series that the curve is fitted to. Others are drawn, and their R2 is against that same curve."""
    instead: tuple[str, ...] = ()
    """Of what stands `beside` each point: other x, whose curve's R2 is told for comparison."""
    degree: int = Field(default=2, ge=1)
    least: float
    """The R2 that the claim needs of the fitted series, and of each other one."""


class Row(Config):
    """A claim, its arms, and the comparisons that show it."""

    name: Name
    """What its results are called."""
    group: str
    """Under which heading it stands on the page."""
    claim: str
    """In one sentence."""
    published: str
    """What was published, and where; or that nothing was."""
    data: str
    """Which rows, and how many."""
    needs: tuple[str, ...] = ()
    """Commands that make its rows and models, run before it from the repository's root: of python, or of pip."""
    arms: dict[Name, Arm]
    """What is measured, by name."""
    comparisons: tuple[Comparison, ...]
    """What is compared. All must hold for the claim to."""
    stated: dict[Name, tuple[str, ...]] = {}
    """Metrics of an arm that are told beside and compared with nothing, as of a distance that only it has gone."""
    measure: str | None = Field(default=None, pattern=r"^[\w.]+:\w+$")
    """`module:function` that measures the arms which are no recipe's: `benchmarks.evidence.measure` says how."""
    settings: dict[str, Any] = {}
    """What it is called with; other settings make other results."""
    fit: Fit | None = None
    """What is said of the points that it returns."""
    larger: tuple[str, ...] = ()
    """Overrides of every recipe for a machine with more time."""

    @model_validator(mode="after")
    def _names_arms(self) -> Row:
        named = {name for one in self.comparisons for name in (one.better, one.than, one.again) if name is not None}
        named |= {*self.stated, *(name for arm in self.arms.values() for name in arm.mean_of)}
        if self.measure is None and any(arm.by_script for arm in self.arms.values()):
            raise ValueError("give an arm `recipe` or `mean_of`, got neither; or the row `measure`")
        if absent := sorted(named - {*self.arms}):
            raise ValueError(f"there is no arm {', '.join(map(repr, absent))}; there are {', '.join(self.arms)}")
        return self

    def metrics_of(self, arm: str) -> set[str]:
        """Return what an arm is compared by, itself or in the mean of several, and what is told of it beside."""
        names = {arm, *(name for name, other in self.arms.items() if arm in other.mean_of)}
        compared = {one.metric for one in self.comparisons if names & {one.better, one.than, one.again}}
        return compared | {*self.stated.get(arm, ())}

    def digest(self, *, larger: bool = False) -> str:
        """Return the digest of what is measured; the words around it may change."""
        metrics = sorted({one.metric for one in self.comparisons}.union(*self.stated.values()))
        told = [identify(self.arms), identify(metrics), *([identify(self.larger)] if larger else [])]
        return digest(told if self.measure is None else [*told, self.measure, identify(self.settings)])


def read_rows(folder: Path = ROWS) -> dict[str, Row]:
    """Return all rows by name, in the order of the files' names. Raises ValueError for one that says something else."""
    rows = [Row.model_validate(yaml.safe_load(path.read_text("utf-8"))) for path in sorted(folder.glob("*.yaml"))]
    return {row.name: row for row in rows}
