"""Which runs are shown, in which order, and in what their recipes differ."""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Return of each run the recipe's fields that are not what most runs of its recipe have, by dotted path.

    Of values that are equally common, the first run's counts. A field that a run lacks is written as a dash.
    """
    groups: dict[str, list[RunFacts]] = {}
    for facts in found:
        groups.setdefault(facts.recipe, []).append(facts)
    usual = {recipe: _usual([facts.parameters for facts in group]) for recipe, group in groups.items()}
    return [
        {path: mine for path, (mine, _) in unlike(facts.parameters, usual[facts.recipe]).items()} for facts in found
    ]


def _usual(every: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Return what most recipes say, without the fields that most of them lack."""
    paths = dict.fromkeys(path for fields in every for path in fields)
    said = {path: Counter(fields.get(path, LACKS) for fields in every).most_common(1)[0][0] for path in paths}
    return {path: value for path, value in said.items() if value != LACKS}


def unlike(ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the fields in which two recipes differ, each with both values.

    Left out is what says nothing: what a version is called and where it goes, a list or part that is written field by
    field in the other, and below a part of another `kind` what the first lacks, or is null in it. A part that one of
    them lacks whole, such as a phase, is one field.
    """
    both = {path: (ours.get(path, LACKS), theirs.get(path, LACKS)) for path in dict.fromkeys([*ours, *theirs])}
    differ = {path: pair for path, pair in both.items() if pair[0] != pair[1] and not _OF_NO_RESULT.match(path)}
    kinds = tuple(path.removesuffix("kind") for path in differ if path.endswith(".kind"))

    def follows(path: str, mine: str, other: str) -> bool:
        if LACKS not in (mine, other):
            return False
        of_the_kind = path.startswith(kinds) and (mine == LACKS or mine == "null")
        return of_the_kind or any(one.startswith(f"{path}.") for one in differ)

    kept = {path: pair for path, pair in differ.items() if not follows(path, *pair)}
    if all(LACKS not in pair for pair in kept.values()):
        return kept
    have = _parts(ours), _parts(theirs)
    return dict(_whole(path, pair, have[pair[0] != LACKS]) for path, pair in kept.items())


def _parts(fields: Iterable[str]) -> frozenset[str]:
    """Return the paths of all parts that have a field."""
    return frozenset(prefix for path in fields for prefix in _prefixes(path))


def _prefixes(path: str) -> list[str]:
    words = path.split(".")
    return [".".join(words[:count]) for count in range(1, len(words) + 1)]


def _whole(path: str, pair: tuple[str, str], have: frozenset[str]) -> tuple[str, tuple[str, str]]:
    """Return a field, or the whole part that it belongs to where the one that lacks it has none of it."""
    if LACKS not in pair:
        return path, pair
    part = next(prefix for prefix in _prefixes(path) if prefix not in have)
    member = part.rpartition(".")[2].isdigit()  # of a list: a metric or a gate, which its fields say best
    if member or part == path:
        return path, pair
    return part, (LACKS, "…") if pair[0] == LACKS else ("…", LACKS)


LACKS = "–"
_OF_NO_RESULT = re.compile(r"(name|publish\.(name|description|to\..*))$")
