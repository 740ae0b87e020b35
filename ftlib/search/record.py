"""What a search leaves about itself: `runs/<recipe name>/search.json`."""

from __future__ import annotations

from ftlib.config import Config
from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.results import Result
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.search.search import Search
from ftlib.search.trial import Trial


class SoupFacts(Config):
    """What came of averaging the best trials."""

    trials: tuple[int, ...]
    """Whose ends it was offered, the best first."""
    candidate: str = ""
    """What was chosen of them on the validation rows."""
    value: Estimate | None = None
    """The metric of that."""
    taken: bool = False
    """Whether it is better there than the best trial, and so was measured on the test rows in its place."""
    why_not: str = ""
    """Why there is none."""


class SearchRecord(Config):
    """A search that is over."""

    recipe: str
    """Its name."""
    metric: str
    higher_is_better: bool
    search: Search
    trials: tuple[Trial, ...]
    best: int
    """The number of the trial whose values are the best."""
    overrides: tuple[str, ...]
    """What makes of the recipe what was measured at the end, as `--set` takes it."""
    soup: SoupFacts | None = None
    importance: dict[str, float] = {}
    """By field, the share of the metric's variance that it explains; empty where nothing can be said."""
    confidence: float = 0.95
    """Of the intervals."""
    results: tuple[Result, ...] = ()
    """On the test rows: the ends of the winner's phases, and its choice."""
    result: ModelVersion | Refusal | None = None
    """What became of the winner; None where nothing was to be published."""

    def count(self, *states: str) -> int:
        """Return how many trials ended in one of some states."""
        return sum(trial.outcome.state in states for trial in self.trials)

    @property
    def winner(self) -> Trial:
        """Return the best trial."""
        return next(trial for trial in self.trials if trial.number == self.best)

    @property
    def seconds(self) -> float:
        """Return what all trials took, each for itself."""
        return sum(trial.outcome.seconds for trial in self.trials)
