"""Which runs are shown, in which order, and in what their recipes differ."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from ftlib.errors import RecipeError
from ftlib.tracking.run_facts import FIELDS, RunFacts
from ftlib.wording import these

_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    "=": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_SHAPE = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|=|>|<)\s*(.*?)\s*")


class Condition(NamedTuple):
    """What must hold of a run: `home/accuracy>=0.8`, `state=published`."""

    field: str
    sign: str
    value: str

    @classmethod
    def read(cls, text: str) -> Condition:
        """Read it as a user writes it. Raises RecipeError."""
        match = _SHAPE.fullmatch(text)
        if match is None or not match[3]:
            raise RecipeError(f"--where: got {text!r}; give FIELD, one of {', '.join(_COMPARED)}, and a value")
        return cls(match[1], match[2], match[3])

    def holds(self, facts: RunFacts) -> bool:
        """Say whether a run has the field and the condition holds: numbers as numbers, words by `=` and `!=`."""
        have = facts.field(self.field)
        if have is None:
            return False
        if isinstance(have, float):
            return _COMPARED[self.sign](have, _number(self.value))
        if self.sign not in ("=", "!="):
            raise RecipeError(f"--where: {self.field} is a word, {have!r}; compare it by = or !=")
        return _COMPARED[self.sign](have, self.value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecipeError(f"--where: got {text!r}; the field is a number, so give one") from None


def chosen(
    every: Sequence[RunFacts], where: Sequence[Condition], name: str = "*", sort: str | None = None
) -> list[RunFacts]:
    """Return the runs for which everything holds, in order; those that lack the field come last.

    Raises RecipeError for a field that no run has.
    """
    asked = [condition.field for condition in where] + ([sort.removeprefix("-")] if sort else [])
    for field in asked:
        if every and field not in FIELDS and all(facts.field(field) is None for facts in every):
            metrics = these({metric for facts in every for metric in facts.metrics})
            raise RecipeError(
                f"no run has {field!r}; there are {', '.join(FIELDS)}, the fields of recipes by their path, and the "
                f"metrics {metrics}"
            )
    found = [facts for facts in every if fnmatchcase(facts.recipe, name) and all(one.holds(facts) for one in where)]
    return _sorted(found, sort) if sort else found


def _sorted(found: Sequence[RunFacts], sort: str) -> list[RunFacts]:
    field = sort.removeprefix("-")
    have = [facts for facts in found if facts.field(field) is not None]
    words = any(isinstance(facts.field(field), str) for facts in have)

    def key(facts: RunFacts) -> Any:
        return str(facts.field(field)) if words else facts.field(field)

    return sorted(have, key=key, reverse=sort != field) + [facts for facts in found if facts.field(field) is None]


def differing(found: Sequence[RunFacts]) -> list[dict[str, str]]:
    """Return of each run the recipe's fields that are not what most of these runs have, by dotted path.

    Of values that are equally common, the first run's counts. A field that a run lacks is written as a dash.
    """
    if len(found) < 2:
        return [{} for _ in found]
    having = Counter(item for facts in found for item in facts.parameters.items())
    alike = {path for (path, _), count in having.items() if count == len(found)}
    paths = dict.fromkeys(path for path, _ in having if path not in alike and path not in _OF_NO_RESULT)
    common: dict[str, str] = {}
    for path in paths:
        values = Counter(facts.parameters.get(path, LACKS) for facts in found)
        common[path] = values.most_common(1)[0][0]
    return [
        {
            path: facts.parameters.get(path, LACKS)
            for path in common
            if facts.parameters.get(path, LACKS) != common[path]
        }
        for facts in found
    ]


LACKS = "–"
_OF_NO_RESULT = ("name",)
