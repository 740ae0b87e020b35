"""What a source yields and a format reads: flat rows with their place, rows that could not be read, and examples.

A value is JSON: text, number, truth value, null, or a nested list or object. Null and absent mean the same, so the
same rows have the same identity whether they came as jsonl, csv with all columns filled, or parquet.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import msgspec

from ftlib.config import Target
from ftlib.errors import DataError

Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]
Values = Mapping[str, Value]

ROW_ID, FILE = "_row_id", "_file"
"""The columns that ingestion adds; a source must not have them."""

BadReason = Literal[
    "too_large",
    "invalid_utf8",
    "broken_json",
    "not_an_object",
    "not_finite",
    "lone_surrogate",
    "nested_too_deep",
    "broken_csv",
    "wrong_field_count",
    "binary_value",
    "reserved_column",
    "no_values",
    "missing_value",
    "wrong_type",
    "not_allowed",
    "missing_key",
    "odd_updated",
    "odd_deleted",
]

DropReason = Literal[
    "missing_text",
    "empty_text",
    "text_not_a_string",
    "missing_label",
    "empty_label",
    "label_not_a_name",
    "missing_completion",
    "empty_completion",
    "completion_not_a_string",
    "missing_words",
    "words_not_strings",
    "missing_tags",
    "tags_not_strings",
    "words_and_tags_differ",
    "tag_not_iob2",
    "labels_not_a_list",
    "missing_score",
    "score_not_a_number",
    "missing_question",
    "missing_context",
    "missing_answer",
    "unanswerable",
    "odd_answer",
    "answer_not_in_context",
]


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
class Example:
    """What a format makes of a row."""

    text: str
    """What makes two rows the same: copies, near copies and leaks are found by it."""
    label: str | None = None
    """What rows are stratified, profiled and found contradictory by."""
    slices: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    """What is encoded, where that is not the text as a whole: words."""
    target: Target = None
    """What is learnt, where that is not the label."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the labels of a closed set that it has, each once: what is counted and watched for drift."""
        return labels_in(self.label if self.target is None else self.target)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that a format has no use for."""

    reason: DropReason


def labels_in(target: Target) -> tuple[str, ...]:
    """Return the labels that a target of a closed set of them names, each once."""
    named = target if isinstance(target, tuple) else (target,)
    return tuple(sorted({label for label in named if isinstance(label, str)}))


class Tokenizer(Protocol):
    """What formats use of a transformers tokenizer."""

    eos_token_id: Any

    def __call__(self, text: Any, **options: Any) -> Any:
        """Return `input_ids`, a list of ids for every text."""
        ...

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many tokens it puts around a text, or a pair of them."""
        ...


@dataclass(frozen=True, slots=True)
class Piece:
    """The token ids of a row to be, with what it is taught."""

    ids: list[int]
    target: Target = None
    supervised: int = 1
    """Terms of its loss: 1 for a label, else the tokens that are predicted."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens: one piece, or several where a format cuts long texts."""

    pieces: list[Piece]
    truncated: bool = False
    """Whether tokens were lost."""


class Checked(msgspec.Struct, frozen=True, gc=False):
    """A row that passed `check_values`, with its identity."""

    values: dict[str, Value]
    row_id: str
    file: int | None = None
    """Which of the dataset's files it came from, where the source says so."""


Schema = Callable[[Row, dict[str, Value]], dict[str, Value] | BadRow]
"""Takes a row and its values without nulls; returns the values as they are kept, or what is wrong with them."""


def check_values(row: Row, row_bytes: int, schema: Schema | None = None, file: int | None = None) -> Checked | BadRow:
    """Return the row without nulls and its id, or why it is not what was asked for or no later stage could hold it."""
    values = row.values
    if None in values.values():
        values: dict[str, Value] = {name: value for name, value in values.items() if value is not None}
    if schema is not None:
        found = schema(row, values)
        if isinstance(found, BadRow):
            return found
        values = found
    try:
        encoded = canonical_json(values)
    except UnicodeEncodeError:  # "\ud800" is valid JSON and no valid text; Arrow cannot hold it
        return BadRow(row.uri, row.line, row.bytes, "lone_surrogate", "half of a surrogate pair, not a character")
    except ValueError:
        return BadRow(row.uri, row.line, row.bytes, "not_finite", "NaN or infinity is not a JSON number")
    except RecursionError:
        return BadRow(row.uri, row.line, row.bytes, "nested_too_deep", "lists or objects nested too deep")
    if not values:
        return BadRow(row.uri, row.line, row.bytes, "no_values", "every value is null")
    if ROW_ID in values or FILE in values:
        name = ROW_ID if ROW_ID in values else FILE
        return BadRow(row.uri, row.line, row.bytes, "reserved_column", f"rename the column {name!r}", name)
    if len(encoded) > row_bytes:
        return BadRow(row.uri, row.line, len(encoded), "too_large", f"{len(encoded)} bytes, allowed {row_bytes}")
    return Checked(values, hashlib.sha256(encoded).hexdigest()[:32], file)


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
    """Turn a table's cell into a value: dates become ISO 8601, decimals text, NaN null. Raises TypeError for bytes."""
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
    for name, cell in cells.items():
        try:
            values[name] = from_python(cell)
        except TypeError:
            return BadRow(
                uri, number, size, "binary_value", f"column {name!r} holds bytes; store text or numbers", name
            )
    return Row(uri, number, size, values)


def need_column(column: str, have: Iterable[str], where: str) -> None:
    """Raise DataError if a column is absent, naming those there are and the one that was probably meant."""
    columns = sorted(have)
    if column in columns:
        return
    close = difflib.get_close_matches(column, columns, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{where}: no column {column!r} in the rows; the columns are {', '.join(columns)}{hint}")


def slice_values(values: Values, slices: Iterable[str]) -> tuple[str, ...]:
    """Return the values by which a report is split, as text; a null is `(none)`."""
    found = (values.get(name) for name in slices)
    return tuple("(none)" if value is None else str(value) for value in found)
