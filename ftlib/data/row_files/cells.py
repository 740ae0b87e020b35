"""Arrow's columns as rows. Arrow holds cells that Python has no value for: dates beyond the year 9999, for one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from typing import TYPE_CHECKING, Any, cast

from ftlib.data.row_files.class_names import Namer, named
from ftlib.data.rows import BadRow, NoValue, Row, Value, table_row
from ftlib.errors import first_line

if TYPE_CHECKING:
    import pyarrow as pa

_SIMPLE = frozenset((str, int, bool, type(None)))
"""Types that are values as they are."""
Test = Callable[["pa.DataType"], bool]
Leaf = Callable[["pa.DataType"], "pa.DataType"]

_FRACTION = re.compile(r"\.(\d+)")


def rows_of(
    batch: pa.RecordBatch, classes: Mapping[str, Namer], uri: str, before: int, size: int
) -> Iterator[Row | BadRow]:
    """Yield a batch's rows, numbered behind `before`, with names for classes."""
    names = batch.schema.names
    columns = [cells_of(column) for column in batch.columns]
    columns = [
        named(cells, classes[name]) if name in classes else cells for name, cells in zip(names, columns, strict=True)
    ]
    simple = all(_SIMPLE.issuperset(map(type, cells)) for cells in columns)
    rows = zip(*columns, strict=True) if columns else repeat((), batch.num_rows)
    for number, cells in enumerate(rows, before + 1):
        values: dict[str, object] = dict(zip(names, cells, strict=True))
        if simple:
            yield Row(uri, number, size, cast("dict[str, Value]", values))
        else:
            yield table_row(uri, number, size, values)


def cells_of(column: pa.Array) -> list[object]:
    """Return a column's cells, as text where only that is exact; a NoValue stands for one that cannot be had."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        return _exact(column)
    except _WRONG:  # one cell is enough
        return [_cell(column.slice(i, 1)) for i in range(len(column))]


# What pyarrow raises for a cell that Python has no value for. An unknown time zone is a KeyError.
_WRONG = (ArithmeticError, LookupError, NotImplementedError, TypeError, ValueError)


def _exact(column: pa.Array) -> list[object]:
    import pyarrow as pa

    # Python's time of day cuts nanoseconds and wraps what is no time of day, without a word.
    return _as_text(column, pa.types.is_time) if _holds(column.type, pa.types.is_time) else column.to_pylist()


def _cell(column: pa.Array) -> object:
    try:
        return _exact(column)[0]
    except UnicodeDecodeError:  # parquet does not check its text, and neither does Arrow
        return NoValue("invalid_utf8", "holds bytes that are not UTF-8")
    except _WRONG as error:
        try:
            return _as_text(column, _is_moment)[0]
        except _WRONG:
            return NoValue(
                "unreadable_value", f"holds a {str(column.type)[:60]} that cannot be read ({first_line(error)})"
            )


def _is_moment(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_time(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def _as_text(column: pa.Array, chosen: Test) -> list[object]:
    """Return cells in which the chosen types are ISO 8601 text, by Arrow's calendar; moments of a zone are UTC."""
    import pyarrow as pa

    def in_utc(kind: pa.DataType) -> pa.DataType:
        return pa.timestamp(kind.unit, "UTC") if pa.types.is_timestamp(kind) and kind.tz and chosen(kind) else kind

    def as_text(kind: pa.DataType) -> pa.DataType:
        return pa.string() if chosen(kind) else kind

    texts = column.cast(_mapped(column.type, in_utc)).cast(_mapped(column.type, as_text))
    return [_tidy(cell, column.type, chosen) for cell in texts.to_pylist()]


def _tidy(cell: Any, kind: pa.DataType, chosen: Test) -> object:
    """Write Arrow's text as `isoformat` does. Raises ValueError where Arrow says that it cannot."""
    import pyarrow as pa

    if cell is None:
        return None
    if chosen(kind):
        if cell.startswith("<"):
            raise ValueError(cell)
        return _FRACTION.sub(_shortest, cell.replace(" ", "T"))
    if pa.types.is_map(kind):
        return [[_tidy(key, kind.key_type, chosen), _tidy(item, kind.item_type, chosen)] for key, item in cell]
    if _is_list(kind):
        return [_tidy(item, kind.value_type, chosen) for item in cell]
    if pa.types.is_struct(kind):
        return {field.name: _tidy(cell[field.name], field.type, chosen) for field in _fields(kind)}
    return cell


def _shortest(fraction: re.Match[str]) -> str:
    digits = fraction[1].ljust(9, "0")
    if not digits.strip("0"):
        return ""
    return f".{digits[:6]}" if digits.endswith("000") else f".{digits}"


def _holds(kind: pa.DataType, chosen: Test) -> bool:
    return chosen(kind) or any(_holds(field.type, chosen) for field in _fields(kind))


def _fields(kind: pa.DataType) -> list[pa.Field]:
    return [kind.field(i) for i in range(kind.num_fields)]


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _mapped(kind: pa.DataType, leaf: Leaf) -> pa.DataType:
    """Return a type with every type inside it replaced. Raises NotImplementedError for a rare container."""
    import pyarrow as pa

    if not kind.num_fields:
        return leaf(kind)
    if pa.types.is_map(kind):
        map_type = cast("pa.MapType", kind)
        return pa.map_(_mapped(map_type.key_type, leaf), _mapped(map_type.item_type, leaf))
    inside = [field.with_type(_mapped(field.type, leaf)) for field in _fields(kind)]
    if pa.types.is_struct(kind):
        return pa.struct(inside)
    if pa.types.is_large_list(kind):
        return pa.large_list(inside[0])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(inside[0], cast("pa.FixedSizeListType", kind).list_size)
    if pa.types.is_list(kind):
        return pa.list_(inside[0])
    raise NotImplementedError(str(kind))
