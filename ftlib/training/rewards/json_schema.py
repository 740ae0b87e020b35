"""Whether an answer is JSON of a shape."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import JsonValue, field_validator

from ftlib.errors import first_line
from ftlib.training.rewards.base import Answered, Bounded, RewardModel


class JsonSchema(Bounded):
    """1 for an answer that is JSON and valid against a schema, else 0. Nothing is fetched: a schema is whole."""

    kind: Literal["json_schema"] = "json_schema"
    valid_against: dict[str, JsonValue]
    """A JSON schema (draft 2020-12 unless its `$schema` says another); `{}` is any JSON."""

    @field_validator("valid_against")
    @classmethod
    def _is_a_schema(cls, schema: dict[str, JsonValue]) -> dict[str, JsonValue]:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for

        remote = [reference for reference in _references(schema) if not reference.startswith("#")]
        if remote:
            raise ValueError(f"$ref {remote[0]!r} lies elsewhere, and nothing is fetched; put it below $defs")
        try:
            cast("Any", validator_for(schema, default=_newest())).check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"no JSON schema: {first_line(error)}") from error
        if (lost := _dangling(schema)) is not None:
            raise ValueError(f"$ref {lost!r} leads nowhere in the schema; name what is there, or put it below $defs")
        return schema

    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return 1 or 0 for each."""
        from jsonschema.validators import validator_for
        from referencing import Registry

        del models
        kind = cast("Any", validator_for(self.valid_against, default=_newest()))
        validator = kind(self.valid_against, registry=Registry())  # without one, references would be fetched
        return [float(_is_valid(validator, one.answer)) for one in answered]


def _is_valid(validator: Any, text: str) -> bool:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    try:
        return bool(validator.is_valid(value))
    except (RecursionError, ArithmeticError):  # lists in lists in lists, and numbers that no float holds
        return False


def _no_constant(word: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError(word)


def _newest() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator


def _dangling(schema: JsonValue) -> str | None:
    """Return a reference to what the schema does not hold: it would be found at the first answer that is JSON."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    resource = Resource[Any].from_contents(schema, default_specification=DRAFT202012)
    resolver = cast("Any", Registry()).resolver_with_root(resource)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            return reference
    return None


def _references(value: JsonValue) -> Iterator[str]:
    if isinstance(value, dict):
        for name, member in value.items():
            if name in ("$ref", "$dynamicRef") and isinstance(member, str):
                yield member
            yield from _references(member)
    elif isinstance(value, list):
        for member in value:
            yield from _references(member)
