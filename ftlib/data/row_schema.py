"""The recipe's row schema, compiled once to a strict check of a row's values.

A schema is open: columns it does not name are kept as they are. Null and absent are the same, as everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, model_validator

from ftlib.config import Config
from ftlib.data.row_reasons import BadReason
from ftlib.data.rows import BadRow, Row, Schema, Value, held_by

"""Characters of a value that a quarantine entry shows."""
_TYPES: dict[str, type] = {"string": str, "int": int, "float": float, "bool": bool, "datetime": str}
_WHERE = re.compile(r" - at `\$\.(.*)`$", re.DOTALL)


class Column(Config):
    """What a column must hold.

    string    text
    int       a whole number; 1.0 is none
    float     any number; a whole one becomes a float
    bool      true or false
    datetime  a text that is an ISO 8601 date or time
    enum      one of `values`

    csv has no types: its texts are read as the type that is asked for.
    """

    type: Literal["string", "int", "float", "bool", "datetime", "enum"]
    """What every value must be; `Column` says what each word means."""
    required: bool = True
    """Whether a row without a value is quarantined."""
    min_length: int | None = Field(default=None, ge=0)
    """Characters, of a string."""
    max_length: int | None = Field(default=None, ge=0)
    """Characters, of a string; unset, any number."""
    at_least: float | None = Field(default=None, ge=-(2**53), le=2**53)
    """For numbers."""
    at_most: float | None = Field(default=None, ge=-(2**53), le=2**53)
    """For numbers."""
    values: tuple[str, ...] = ()
    """All that an enum may be."""

    @model_validator(mode="after")
    def _fits(self) -> Column:
        lengths, bounds = (self.min_length, self.max_length), (self.at_least, self.at_most)
        if self.type != "string" and any(length is not None for length in lengths):
            raise ValueError(f"a column of type {self.type!r} has no length; remove min_length and max_length")
        if self.type not in ("int", "float") and any(bound is not None for bound in bounds):
            raise ValueError(f"a column of type {self.type!r} is no number; remove at_least and at_most")
        if (self.type == "enum") != bool(self.values):
            raise ValueError("type 'enum' and values go together; give both or neither")
        return self


def compile_schema(columns: Mapping[str, Column]) -> Schema | None:
    """Return the check of a row's values, which takes a microsecond a row; None if nothing is asked."""
    if not columns:
        return None
    fields = {f"c{i}": name for i, name in enumerate(columns)}
    shape = msgspec.defstruct("Row", [_field(f, columns[n]) for f, n in fields.items()], rename=fields)
    required = [name for name, column in columns.items() if column.required]
    floats = [name for name, column in columns.items() if column.type == "float"]
    parsed = [(field, name) for field, name in fields.items() if columns[name].type in ("int", "float", "bool")]
    dates = [name for name, column in columns.items() if column.type == "datetime"]
    moment: Callable[[Any], datetime] = datetime.fromisoformat

    def check(row: Row, values: dict[str, Value]) -> dict[str, Value] | BadRow:
        """Return the values as the schema holds them, or the row as a bad one that names the column to blame."""
        try:
            # Said by name, `strict` alone takes as long as the conversion.
            converted = msgspec.convert(values, shape, strict=False) if row.untyped else msgspec.convert(values, shape)
            for name in dates:
                if (text := values.get(name)) is not None:
                    moment(text)
        except msgspec.ValidationError as error:
            return _refusal(row, values, required, str(error))
        except ValueError as error:
            return _bad(row, "wrong_type", _first_odd_date(dates, values), str(error))
        if row.untyped:  # csv's texts become what was asked for
            return {
                **values,
                **{name: v for field, name in parsed if (v := getattr(converted, field)) is not msgspec.UNSET},
            }
        for name in floats:
            if type(whole := values.get(name)) is int:
                values = {**values, name: float(whole)}
        return values

    return check


def _field(field: str, column: Column) -> tuple[str, Any] | tuple[str, Any, Any]:
    kind = Literal[column.values] if column.type == "enum" else _TYPES[column.type]
    if column.min_length is not None or column.max_length is not None:
        kind = Annotated[kind, msgspec.Meta(min_length=column.min_length, max_length=column.max_length)]
    if column.at_least is not None or column.at_most is not None:
        # msgspec compares integers with integers.
        up, down = (math.ceil, math.floor) if column.type == "int" else (float, float)
        least = None if column.at_least is None else up(column.at_least)
        most = None if column.at_most is None else down(column.at_most)
        kind = Annotated[kind, msgspec.Meta(ge=least, le=most)]
    return (field, kind) if column.required else (field, kind | msgspec.UnsetType, msgspec.UNSET)


def _first_odd_date(dates: Iterable[str], values: Mapping[str, Value]) -> str:
    for name in dates:
        try:
            datetime.fromisoformat(str(values.get(name, "2000-01-01")))
        except ValueError:
            return name
    raise AssertionError("every date can be read")


def _refusal(row: Row, values: Mapping[str, Value], required: list[str], message: str) -> BadRow:
    """Say which column is to blame, from msgspec's message: `Expected X, got Y - at $.column`."""
    for name in required:
        if name not in values:
            present = ", ".join(map(repr, row.values))
            return _bad(
                row,
                "missing_value",
                name,
                "null" if name in row.values else f"absent; there are {present}{held_by(name, row.values)}",
            )
    where = _WHERE.search(message)
    if where is None:
        return BadRow(row.uri, row.line, row.bytes, "wrong_type", message)
    what, name = message[: where.start()], where[1]
    reason: BadReason = "wrong_type" if ", got `" in what else "not_allowed"
    return _bad(row, reason, name, f"{what}: {values[name]!r}")


def _bad(row: Row, reason: BadReason, column: str, detail: str) -> BadRow:
    return BadRow(row.uri, row.line, row.bytes, reason, f"column {column!r}: {detail}", column)
