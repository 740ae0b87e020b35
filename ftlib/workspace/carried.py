"""The references that a value holds, replaced wherever they stand in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic import BaseModel

_URI = "uri"


def with_uris(value: object, new: Callable[[str], str]) -> object:
    """Return a value in which every field called `uri` that is not empty holds what `new` makes of it.

    What holds none is the same object as before.
    """
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: one for name, field in fields.items() if (one := with_uris(field, new)) is not field}
        if isinstance(uri := fields.get(_URI), str) and uri and (reference := new(uri)) != uri:
            changed[_URI] = reference
        return value.model_copy(update=changed) if changed else value
    if isinstance(value, (tuple, list)):
        members = cast("tuple[Any, ...] | list[Any]", value)
        others = [with_uris(member, new) for member in members]
        return members if all(map(_same, members, others)) else type(members)(others)
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        new_items = {key: with_uris(item, new) for key, item in items.items()}
        return items if all(map(_same, items.values(), new_items.values())) else new_items
    return value


def _same(one: object, other: object) -> bool:
    return one is other
