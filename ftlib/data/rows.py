"""What a source yields and a format reads: flat rows with their place, rows that could not be read, and examples.

A value is JSON: text, number, truth value, null, or a nested list or object. Null and absent mean the same, so the
same rows have the same identity whether they came as jsonl, csv with all columns filled, or parquet.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import msgspec

from ftlib.data.identity import NONE, identity
from ftlib.data.inputs import INPUT_IDS, Cell, answer_input
from ftlib.data.row_reasons import BadReason, DropReason, PassReason
from ftlib.data.row_targets import Target
from ftlib.errors import DataError
from ftlib.wording import meant, some

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
Values = Mapping[str, Value]

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""What stands between the columns of a csv in place of commas."""
_NAMES, _NAME = 20, 60
"""Columns that a message names, and characters of a name."""

ROW_ID, FILE = "_row_id", "_file"
"""The columns that ingestion adds; a source must not have them."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row as its source holds it. A struct, since a frozen dataclass takes as long to make as a line to parse."""

    uri: str
    line: int
    """Counted from 1; for a table, the row's number."""
    bytes: int
    values: dict[str, Value]
    untyped: bool = False
    """Whether every value is a text because the file has no types (csv)."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One row that could not be read; it is written to `quarantine.jsonl` as it stands here."""

    uri: str
    line: int
    bytes: int
    reason: BadReason
    detail: str
    column: str | None = None
    """The column that is to blame, where it is one."""


@dataclass(frozen=True, slots=True)
class Passed:
    """One row that can be read and gives nothing of what its source was asked for; it is counted."""

    bytes: int
    reason: PassReason


@dataclass(frozen=True, slots=True)
class NoValue:
    """Stands for a table's cell that is no value; it makes its row a bad one."""

    reason: BadReason
    detail: str
    """What the column holds."""


@dataclass(frozen=True, slots=True)
class Example:
    """What a format makes of a row."""

    text: str
    """What makes two rows the same: copies, near copies and leaks are found by it."""
    label: str | None = None
    """What rows are stratified and found contradictory by: the identity of a label, or of a set of them."""
    slices: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """What is encoded, where that is not the text as a whole: words."""
    target: Target = None
    """What is learnt, labels as they are written."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of a closed set that it has, each once: what is counted and watched for drift."""
        return labels_in(self.target)

    def named(self, names: Mapping[str, str]) -> Example:
        """Return it with the labels of its target under these names: `names` holds every spelling there is, or none."""
        if not names or self.target is None:
            return self
        if isinstance(self.target, tuple):
            labels = (names[one] if one and isinstance(one, str) else one for one in self.target)
            return replace(self, target=tuple(labels))
        return replace(self, target=names[str(self.target)])


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that a format has no use for."""

    reason: DropReason
    detail: str = ""
    """What there is to say of this row beside its reason."""


def labels_in(target: Target) -> tuple[str, ...]:
    """Return the labels that a target of a closed set of them names, each once."""
    if isinstance(target, dict):
        target = tuple(target["labels"]) if "labels" in target else None
    named = target if isinstance(target, tuple) else (target,)
    return tuple(sorted({label for label in named if isinstance(label, str)}))


@dataclass(frozen=True, slots=True)
class Piece:
    """A row to be: what the model reads, with what it is taught."""

    inputs: Mapping[str, Cell]
    """By the names of the format's `inputs`."""
    target: Target = None
    supervised: int = 1
    """Terms of its loss: 1 for a label, else the tokens that are predicted."""

    @property
    def ids(self) -> list[int]:
        """Return the token ids of a row of text, as the model reads it."""
        return cast("list[int]", self.inputs[INPUT_IDS])

    @property
    def answer_ids(self) -> list[int]:
        """Return the token ids among which those that a language model is taught stand last, or are marked."""
        return cast("list[int]", self.inputs[answer_input(self.inputs)])


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as the model reads it: one piece, or several where a format cuts long texts."""

    pieces: list[Piece]
    """None of a row that is dropped."""
    truncated: bool = False
    """Whether tokens were lost."""
    changes: tuple[str, ...] = ()
    """What was done to an image so that all are alike (`ftlib.data.images.decoding`)."""
    measures: Mapping[str, int] = field(default_factory=dict[str, int])
    """What a profile counts of it, by name, where that is not the length of a text."""
    dropped: Dropped | None = None
    """Why the model cannot read it, where only its tokenizer knows."""


class Checked(msgspec.Struct, frozen=True, gc=False):
    """A row that passed `check_values`, with its identity."""

    values: dict[str, Value]
    row_id: str
    file: int | None = None
    """Which of the dataset's files it came from, where the source says so."""
    bytes: int = 0
    """Of its canonical JSON."""


Schema = Callable[[Row, dict[str, Value]], dict[str, Value] | BadRow]
"""Takes a row and its values without nulls; returns the values as they are kept, or what is wrong with them."""


def check_values(row: Row, row_bytes: int, schema: Schema | None = None, file: int | None = None) -> Checked | BadRow:
    """Return the row without nulls and its id, or why it is not what was asked for or no later stage could hold it."""
    values = row.values
    if None in values.values():
        values: dict[str, Value] = {name: value for name, value in values.items() if value is not None}
    if schema is not None:
        checked = schema(row, values)
        if isinstance(checked, BadRow):
            return checked
        values = checked
    try:
        encoded = canonical_json(values)
    except (ValueError, RecursionError):
        return _without_json(row, values)
    if not values:
        return BadRow(row.uri, row.line, row.bytes, "no_values", "every value is null")
    if ROW_ID in values or FILE in values:
        name = ROW_ID if ROW_ID in values else FILE
        return BadRow(row.uri, row.line, row.bytes, "reserved_column", f"rename the column {name!r}", name)
    if len(encoded) > row_bytes:
        largest = max(values, key=lambda name: len(canonical_json({name: values[name]})))
        image = str(values[largest])[:5] == "data:"
        return too_large(row.uri, row.line, len(encoded), row_bytes, largest, image=image)
    return Checked(values, hashlib.sha256(encoded).hexdigest()[:32], file, len(encoded))


def _without_json(row: Row, values: Values) -> BadRow:
    """Return what is wrong with the first column that canonical JSON cannot say."""
    for name, value in values.items():
        try:
            canonical_json({name: value})
        except UnicodeEncodeError:  # "\ud800" is valid JSON and no valid text; Arrow cannot hold it
            return blame(row, "lone_surrogate", name, "holds half of a surrogate pair, which is no character")
        except ValueError:
            return blame(row, "not_finite", name, NOT_FINITE)
        except RecursionError:
            break
    return BadRow(row.uri, row.line, row.bytes, "nested_too_deep", "lists or objects nested too deep")


NOT_FINITE = "holds NaN or infinity, which is no JSON number"


def is_finite(value: Value) -> bool:
    """Say whether no number in a value is NaN or infinite. Raises RecursionError for what is nested too deep."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    return all(map(is_finite, value)) if isinstance(value, list) else True


def blame(row: Row, reason: BadReason, column: str, what: str) -> BadRow:
    """Return the row as a bad one whose column is to blame, with the remedy for a column that nobody reads."""
    detail = f"column {column!r} {what}; correct it, or leave it out: source.drop_columns"
    return BadRow(row.uri, row.line, row.bytes, reason, detail, column)


def too_large(uri: str, line: int, size: int, allowed: int, largest: str, *, image: bool = False) -> BadRow:
    """Return a bad row that has more bytes than allowed, most of them in one column, which may be an image."""
    detail = f"{size} bytes, allowed {allowed}, most in column {largest!r}; raise limits.row_bytes, or"
    remedy = "store the image smaller" if image else "leave the column out: source.drop_columns"
    return BadRow(uri, line, size, "too_large", f"{detail} {remedy}", largest)


_sorted_json = msgspec.json.Encoder(order="sorted").encode
_EXACT = frozenset((str, int, bool))
_NEARLY = _EXACT | {float}


def canonical_json(values: Values) -> bytes:
    """Return what `json.dumps` says with sorted keys, no spaces and no escapes beyond JSON's own, several times faster.

    Raises ValueError for NaN and infinity, UnicodeEncodeError for a lone surrogate.
    """
    kinds = set(map(type, values.values()))
    if kinds <= _EXACT or (kinds <= _NEARLY and _spelt_alike(values)):
        return _sorted_json(values)
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _spelt_alike(values: Values) -> bool:
    """Return whether msgspec spells all floats as `json` does: 1e+16 and 1e-05 it does not, and NaN becomes null."""
    return all(1e-4 <= abs(value) < 1e16 for value in values.values() if type(value) is float)


def from_python(value: object) -> Value:
    """Turn a table's cell into a value: dates become ISO 8601, decimals text, NaN null.

    Raises TypeError for bytes, RecursionError for what is nested too deep.
    """
    if isinstance(value, float):
        return None if math.isnan(value) else value  # NaN is how pandas writes a null
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, (list, tuple)):
        return [from_python(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {str(key): from_python(item) for key, item in cast("dict[object, object]", value).items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("binary value")
    iso = getattr(value, "isoformat", None)
    return str(iso()) if callable(iso) else str(value)


def table_row(uri: str, number: int, size: int, cells: dict[str, object]) -> Row | BadRow:
    """Turn a table's row into a row of values."""
    values: dict[str, Value] = {}
    row = Row(uri, number, size, values)
    for name, cell in cells.items():
        if isinstance(cell, NoValue):
            return blame(row, cell.reason, name, cell.detail)
        try:
            values[name] = from_python(cell)
        except TypeError:
            return blame(
                row, "binary_value", name, "holds bytes, neither text nor a number (an image? name it in source.images)"
            )
    return row


def need_column(column: str, have: Iterable[str], where: str, hint: str = "") -> None:
    """Raise DataError if a column is absent, naming those there are, and the hint or the one that was meant."""
    columns = sorted(have)
    if column in columns:
        return
    named = [name if len(name) <= _NAME else f"{name[:_NAME]}..." for name in columns]
    raise DataError(
        f"{where}: no column {column!r} in the rows; the columns are {some(named, _NAMES)}"
        f"{hint or held_by(column, columns) or _meant(column, columns)}"
    )


def held_by(column: str, have: Iterable[str]) -> str:
    """Return, to be added to a message, in which other column an absent one is; nothing if it is in none."""
    for name in have:
        for separator, called in SEPARATORS.items():
            if separator in name and column in [part.strip(" \"'") for part in name.split(separator)]:
                return f"; {name!r} is one column: write commas between columns, not {called}"
        if column.startswith(f"{name}."):
            return f"; a column {name!r} is there: write its field as a column of its own, under a name without a dot"
    return ""


def _meant(column: str, columns: list[str]) -> str:
    plain = [name for name in columns if name.strip(" \"'\ufeff").casefold() == column.strip().casefold()]
    return f"; did you mean {plain[0]!r}?" if plain else meant(column, columns)


def slice_values(values: Values, slices: Iterable[str]) -> tuple[str, ...]:
    """Return the values by which a report is split, one text for all that are one; a null is `(none)`."""
    return tuple(identity(values.get(name)) or NONE for name in slices)
