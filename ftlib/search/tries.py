"""The command line's short form of a space: `PATH=LOW..HIGH [log] [step STEP]`, or `PATH=[A, B, C]`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from ftlib.errors import RecipeError
from ftlib.search.space import Domain
from ftlib.yaml_text import read_value

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\s*\.\.\s*({_NUMBER})(\s+log)?(?:\s+step\s+({_NUMBER}))?")
_FORM = "write PATH=1e-5..1e-3 log, PATH=4..64, PATH=0..1 step 0.25 or PATH=[a, b]"


def read_tries(tries: Iterable[str]) -> dict[str, Domain]:
    """Return a space by its short forms. Raises RecipeError for what is none, or a field that is there twice."""
    space: dict[str, Domain] = {}
    for words in tries:
        path, equals, said = (part.strip() for part in words.partition("="))
        if not equals or not path or not said:
            raise RecipeError(f"{words!r} says nothing to try; {_FORM}")
        if path in space:
            raise RecipeError(f"{path}: is given twice; give all its values at once")
        try:
            space[path] = TypeAdapter[Domain](Domain).validate_python(_fields(words, said))
        except ValidationError as error:
            message = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
            raise RecipeError(f"{words!r}: {message[:1].lower()}{message[1:]}") from None
    return space


def _fields(words: str, said: str) -> dict[str, Any]:
    """Return a domain's fields as a short form says them. Raises RecipeError for what is none."""
    if match := _RANGE.fullmatch(said):
        low, high, log, step = match.groups()
        whole = all(re.fullmatch(r"[-+]?\d+", one) for one in (low, high, step) if one)
        number = int if whole else float
        ends = {"low": number(low), "high": number(high)}
        if whole:
            return {"kind": "integer", **ends, "log": bool(log), **({"step": int(step)} if step else {})}
        if log and step:
            raise RecipeError(f"{words!r}: log and step do not go together; leave one out")
        if log:
            return {"kind": "log_uniform", **ends}
        return {"kind": "uniform", **ends, **({"step": float(step)} if step else {})}
    try:
        values = read_value(said)
    except (yaml.YAMLError, RecursionError):
        values = None
    if not isinstance(values, list):
        raise RecipeError(f"{words!r}: {said!r} is neither a range nor a list; {_FORM}")
    return {"kind": "choice", "values": values}
