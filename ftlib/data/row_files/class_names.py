"""Class names of Hugging Face's `datasets`: a file that holds numbers of classes says what they are called.

The features are read as `datasets` writes them, JSON in a table's metadata, so that nothing of it is imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from ftlib.data.rows import NoValue

Namer = Callable[[Any], Any]
"""Takes a cell, returns it with names instead of numbers, or raises NoClassError."""


class NoClassError(ValueError):
    """A number that no class has."""


def stored_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return the features that a table's metadata says; empty where it says none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return cast("dict[str, Any]", features) if isinstance(features, dict) else {}


def namers(features: Mapping[str, Any]) -> dict[str, Namer]:
    """Return a namer for every column that holds classes, alone, in lists or in structs."""
    return {name: namer for name, feature in features.items() if (namer := _namer(feature))}


def named(cells: list[object], namer: Namer) -> list[object]:
    """Return a column's cells with names for numbers."""
    return [_named(cell, namer) for cell in cells]


def _named(cell: object, namer: Namer) -> object:
    if cell is None or isinstance(cell, NoValue):
        return cell
    try:
        return namer(cell)
    except NoClassError as error:
        return NoValue("not_allowed", str(error))


def _namer(feature: object) -> Namer | None:
    if isinstance(feature, list):  # how lists were written before there was List
        return _of_list(cast("list[object]", feature)[0]) if feature else None
    if not isinstance(feature, dict):
        return None
    entries = cast("dict[str, Any]", feature)
    kind = entries.get("_type")
    if not isinstance(kind, str):  # a struct; one of its fields may be called _type
        return _of_struct(entries)
    if kind == "ClassLabel":
        return _of_class(entries.get("names"))
    return _of_list(entries.get("feature")) if kind in ("List", "LargeList", "Sequence") else None


def _of_class(names: object) -> Namer | None:
    if not isinstance(names, list):
        return None
    classes = cast("list[object]", names)

    def name(cell: Any) -> object:
        if not isinstance(cell, int) or isinstance(cell, bool):
            return cell  # a name already
        if cell == -1:  # how `datasets` writes "no label"
            return None
        if not 0 <= cell < len(classes):
            raise NoClassError(f"holds class {cell}, the {len(classes)} names are for 0 to {len(classes) - 1}")
        return classes[cell]

    return name


def _of_list(feature: object) -> Namer | None:
    inner = _namer(feature)
    if inner is None:
        return None

    def name(cells: Any) -> object:
        if isinstance(cells, dict):  # Sequence of a struct is stored as a struct of lists
            columns = cast("dict[str, Any]", cells).items()
            rows = {key: [inner({key: item})[key] for item in column or ()] for key, column in columns}
            return {key: None if cells[key] is None else rows[key] for key in rows}
        return [None if cell is None else inner(cell) for cell in cells]

    return name


def _of_struct(fields: Mapping[str, Any]) -> Namer | None:
    inner = namers(fields)
    if not inner:
        return None

    def name(cell: Any) -> object:
        struct = cast("dict[str, Any]", cell)
        return {
            key: inner[key](value) if key in inner and value is not None else value for key, value in struct.items()
        }

    return name
