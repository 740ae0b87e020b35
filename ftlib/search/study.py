"""The trials of one search in a work place: a file each, written when a trial is over, and read by whoever goes on.

One whose process failed says nothing of its values: it is tried again by whoever goes on.

    runs/<recipe name>/search/<study>/trial-0003.json

The study's name says what was searched and on which rows, so that a search which asks for more trials goes on, and one
that asks for something else begins anew. What trials made lies where every run's stages leave it, and is shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from ftlib.errors import StorageError
from ftlib.fingerprint import digest, identify
from ftlib.search.search import Search
from ftlib.search.space import Point
from ftlib.search.trial import Outcome, Trial
from ftlib.workspace import Workspace, add, overwrite


def study_key(search: Search, metric: str, asked: Mapping[str, object]) -> str:
    """Return what names a study: the space and how it is searched, and what else decides what trials come to."""
    searched = {
        "space": {path: domain.model_dump(mode="json") for path, domain in search.space.items()},
        "sampler": search.sampler,
        "seed": search.seed,
        "halving": search.halving and search.halving.model_dump(mode="json"),
        "metric": metric,
    }
    return digest([identify(searched), identify(dict(asked))])[:12]


class Study:
    """The trials that are over."""

    def __init__(self, work: Workspace, recipe: str, key: str, search: Search) -> None:
        """Open the study of a recipe's search, with the trials that earlier attempts at it have finished."""
        self._work, self._folder = work, f"runs/{recipe}/search/{key}"
        self._search = search
        found = {trial.number: trial for trial in self._read()}
        self.trials = {number: trial for number, trial in found.items() if trial.outcome.state != "failed"}
        self._again = found.keys() - self.trials.keys()

    def _read(self) -> Iterator[Trial]:
        for name in self._work.names(self._folder):
            if not name.startswith("trial-") or not name.endswith(".json"):
                continue
            path = self._work.shared(f"{self._folder}/{name}")
            try:
                yield Trial.model_validate_json(path.read_bytes())
            except (OSError, ValueError) as error:
                raise StorageError(
                    f"{path}: is no trial's record: {str(error).splitlines()[0]}; delete it, and the trial is run again"
                ) from None

    def add(self, number: int, points: Mapping[str, Point], outcome: Outcome) -> Trial:
        """Keep what came of a trial. Raises StorageError, TransientError."""
        trial = Trial(
            number=number,
            points=dict(points),
            values={path: self._search.space[path].value(point) for path, point in points.items()},
            outcome=outcome,
            finished=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}",
        )
        keep = overwrite if number in self._again else add
        keep(self._work, f"{self._folder}/trial-{number:04d}.json", trial.model_dump_json(indent=1).encode())
        self.trials[number] = trial
        return trial

    def first(self, count: int) -> list[Trial]:
        """Return the first so many trials, which are over."""
        return [self.trials[number] for number in range(count)]
