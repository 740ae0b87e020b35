"""A search's recipes: what a trial's values make of one, whether a space makes sense, and who is published."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue, ValidationError

from flows.run.values import Inputs
from ftlib.config import user_path
from ftlib.errors import RecipeError
from ftlib.fingerprint import identify
from ftlib.recipe.file import read_yaml, recipe_from
from ftlib.recipe.recipe import Recipe
from ftlib.search.proposals import check_sampler
from ftlib.search.search import Search
from ftlib.search.space import Choice, Point, override_of
from ftlib.search.study import study_key
from ftlib.search.trial import Trial
from ftlib.search.tries import read_tries
from ftlib.wording import some, these

_NO_RESULT = {
    "compute": "where a run computes changes no result",
    "encryption": "how stores encrypt changes no result",
    "publish": "it says where the result goes",
    "retrain": "it says when to train again",
    "search": "it says what is tried",
    "learning_curve": "it is drawn behind the choice",
    "name": "it names the run",
}
"""Fields that cannot be tried, and why; `_apart` says of which others."""
_OF_THE_LOSS = (
    *("objective", "penalty", "self_kl", "tasks", "companions", "scores"),
    *("dataset", "mixture", "mixing", "answers", "principles"),
)
"""Fields of a phase that change what its validation loss is, or of which rows."""


@dataclass(frozen=True)
class Searched:
    """A recipe with what is searched."""

    path: str
    data: Mapping[str, Any]
    """Its file, as it was when the search began."""
    overrides: tuple[str, ...]
    search: Search

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str], tries: Sequence[str], **changes: Any) -> "Searched":
        """Read a recipe, and what its `search` says; `tries` are added to the space, and changes that are not None.

        Raises RecipeError.
        """
        data = read_yaml(user_path(path))
        base = recipe_from(path, data, overrides)
        fields = base.search.model_dump()
        fields |= {name: value for name, value in changes.items() if value is not None}
        fields["space"] = {**base.search.space, **read_tries(tries)}
        try:
            search = Search.model_validate(fields)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, ("search", *problem["loc"])))
            message = str(problem["msg"]).removeprefix("Value error, ")
            got = f", got {problem['input']!r}" if problem["loc"] else ""
            raise RecipeError(f"{where}: {message[:1].lower()}{message[1:]}{got}") from None
        return cls(str(path), data, tuple(overrides), search)

    @cached_property
    def recipe(self) -> Recipe:
        """Return the recipe as it is."""
        return self.of({})

    @property
    def metric(self) -> str:
        """Return what trials are compared by."""
        return self.search.metric or self.recipe.select.by

    @property
    def maximize(self) -> bool:
        """Say whether the metric is better the higher it is."""
        return self.recipe.metric(self.metric)[1].higher_is_better

    def of(self, values: Mapping[str, JsonValue], more: Sequence[str] = ()) -> Recipe:
        """Return the recipe with some values. Raises RecipeError."""
        return recipe_from(self.path, self.data, [*self.overrides, *self.overrides_of(values), *more])

    def overrides_of(self, values: Mapping[str, JsonValue]) -> list[str]:
        """Return values as `--set` takes them."""
        return [override_of(path, value) for path, value in values.items()]

    def command(self, overrides: Sequence[str]) -> str:
        """Return the command that runs the recipe with some overrides."""
        return " ".join(["reglage run", shlex.quote(self.path), *(f"--set {shlex.quote(one)}" for one in overrides)])

    @cached_property
    def own(self) -> dict[str, Point] | None:
        """Return the recipe's own values as points; None where they lie outside the space."""
        points: dict[str, Point] = {}
        said = self.recipe.model_dump(mode="json")
        for path, domain in self.search.space.items():
            if isinstance(domain, Choice):
                same = [i for i, value in enumerate(domain.values) if self.of({path: value}) == self.recipe]
                point = same[0] if same else None
            else:
                point = domain.point(_at(said, path))
            if point is None:
                return None
            points[path] = point
        return points

    def check(self) -> None:
        """Hold the space against the recipe before anything starts. Raises RecipeError with a line a problem."""
        self.check_plan()
        if (budget := self.recipe.compute.budget) is not None:
            raise RecipeError(
                f"compute.budget: {budget:g} is asked for, but a search stops at no sum; look at what it would cost "
                "(reglage search --plan), choose search.trials by that, and set compute.budget to null"
            )

    def check_plan(self) -> None:
        """Hold the space against the recipe before a plan is made. Raises RecipeError with a line a problem."""
        self.check_space()
        check_sampler(self.search)

    def check_space(self) -> None:
        """Hold the space against the recipe, on a machine that need not be able to search it. Raises RecipeError."""
        if lines := [*self._misfits()]:
            raise RecipeError("\n".join(lines))

    def _misfits(self) -> Iterator[str]:
        """Yield a line for all that makes no sense of the space, the metric or the halving."""
        if not self.search.space:
            yield (
                "search.space: there is nothing to try; name fields in the recipe's search, or as --try "
                "'phases.tune.optimizer.learning_rate=1e-5..1e-3 log'"
            )
        try:
            self.recipe.metric(self.metric)
        except KeyError:
            have = (f"{name}/{one.name}" for name, of in self.recipe.evaluations.items() for one in of.metrics)
            yield f"search.metric: {self.metric!r} is not measured; there are {these(have)}"
        for path in self.search.space:
            yield from self._misfits_of(path)
        if self.search.halving:
            yield from self._halving_misfits()
        if self.search.soup > 1:
            yield from self._soup_misfits()

    def _misfits_of(self, path: str) -> Iterator[str]:
        plain = path.replace("[", ".").replace("]", "")
        for field, why in _NO_RESULT.items():
            if plain == field or plain.startswith(f"{field}."):
                yield f"search.space: {path}: {why}; take it out"
                return
        for value in self.search.space[path].corners():
            try:
                tried = self.of({path: value})
            except RecipeError as error:
                for line in str(error).splitlines():
                    yield f"search.space: {override_of(path, value)}: {line.removeprefix(f'{self.path}: ')}"
                return
            if why := self._apart(tried):
                yield f"search.space: {path}: {why}; take it out"
                return

    def _apart(self, tried: Recipe) -> str | None:
        """Say why a trial's numbers could not be held against those of others, by whatever path it came to differ."""
        base = self.recipe
        if tried.evaluations != base.evaluations:
            return "trials are compared by `evaluations`, so they must measure the same"
        if tried.select.by != base.select.by:
            return "trials are compared by `select.by`, so it must be the same"
        if {name: of.split for name, of in tried.datasets.items()} != {
            name: of.split for name, of in base.datasets.items()
        }:
            return "trials are measured on the rows of a split, so they must be the same"
        if any(of.source != base.datasets[name].source for name, of in tried.datasets.items()):
            return "a search reads what the recipe's sources list when it begins, so they must be the same"
        return None

    def _loss_apart(self, tried: Recipe) -> bool:
        """Say whether a trial's last phase is validated by another loss, or on other rows or tokens."""
        one, other = self.recipe.phases[-1], tried.phases[-1]
        read = [
            (r.model, r.added_tokens, {name: of.format for name, of in r.datasets.items()})
            for r in (self.recipe, tried)
        ]
        return read[0] != read[1] or any(getattr(one, name) != getattr(other, name) for name in _OF_THE_LOSS)

    def _soup_misfits(self) -> Iterator[str]:
        """Say why the best trials' ends could not be averaged; it would be said behind the last trial."""
        try:
            self.of({}, [_soup(["/a/trial"])])
        except RecipeError as error:
            for line in str(error).splitlines():
                yield f"search.soup: {line.removeprefix(f'{self.path}: ')}; or set soup to 1"

    def _halving_misfits(self) -> Iterator[str]:
        """Say why trials could not be compared while they train."""
        last = self.recipe.phases[-1]
        where = f"phases[{last.name}]"
        if not last.tuning.takes_steps:
            yield f"search.halving: {where} takes no steps, so there is nothing to stop; take halving out"
            return
        looks = last.optimizer.epochs * last.evaluations_per_epoch
        if looks < 2:
            yield (
                f"search.halving: {where} is measured first at its end; raise its evaluations_per_epoch, which is "
                f"{last.evaluations_per_epoch}, so that it is measured on the way"
            )
        changing: list[str] = []
        for path, domain in self.search.space.items():
            with suppress(RecipeError):  # which is said of the path itself
                if any(self._loss_apart(self.of({path: value})) for value in domain.corners()):
                    changing.append(path)
        if changing:
            yield (
                f"search.halving: {some(changing)} changes what a validation loss is, so trials cannot be compared by "
                "it; take one of them out"
            )

    def identity(self, models: object, files: object, forgotten: object) -> dict[str, object]:
        """Return what decides what trials come to, beside the search: all but where it runs and what becomes of it."""
        left_out = {"compute", "encryption", "publish", "retrain", "search", "learning_curve", "name", "model"}
        fields = [name for name in type(self.recipe).model_fields if name not in left_out]
        parts = {name: identify(getattr(self.recipe, name)) for name in fields}
        return {**parts, "model": models, "files": files, "forgotten": forgotten}


def study_of(asked: Searched, given: Inputs) -> str:
    """Return the name of the study that a search is."""
    files = {name: [identify(one) for one in files] for name, files in given.files.items()}
    forgotten = [repr(request) for request in given.forgotten]
    beside = [given.onto, *(model for of_phase in given.companions.values() for model in of_phase.values())]
    digests = [model.digest() for model in (given.model, *beside) if model]
    models = digests if digests[1:] else digests[0]
    return study_key(asked.search, asked.metric, asked.identity(models, files, forgotten))


def _at(data: Any, path: str) -> object:
    """Return the value at a path, as an override would set it."""
    for key in path.replace("[", ".").replace("]", "").split("."):
        if isinstance(data, list):
            members = cast("list[Any]", data)
            named = {member["name"]: member for member in members if isinstance(member, dict) and "name" in member}
            data = named[key] if key in named else members[int(key)]
        elif isinstance(data, dict):
            data = cast("dict[str, Any]", data).get(key)
        else:
            return None
    return data


def best_first(trials: Sequence[Trial], *, maximize: bool) -> list[Trial]:
    """Return the measured trials, the best first; of equals the earlier."""
    done = [trial for trial in trials if trial.outcome.state == "done" and trial.measured is not None]
    sign = -1.0 if maximize else 1.0
    return sorted(done, key=lambda trial: (sign * (trial.measured or 0.0), trial.number))


def ingredients(ranked: Sequence[Trial], count: int) -> list[Trial]:
    """Return the best trials whose last phase starts where the best one's does and ends elsewhere, the best first."""
    chosen: list[Trial] = []
    for trial in ranked:
        fits = trial.outcome.started_from == ranked[0].outcome.started_from
        if fits and all(trial.outcome.end != other.outcome.end for other in chosen):
            chosen.append(trial)
    return chosen[:count]


def soup_of(chosen: Sequence[Trial]) -> list[str]:
    """Return the overrides that make a greedy soup of trials, beside the best one's."""
    return [_soup([trial.outcome.end for trial in chosen[1:]])]


def _soup(siblings: list[JsonValue]) -> str:
    return override_of("interpolation", {"kind": "soup", "order": "greedy", "siblings": siblings})
