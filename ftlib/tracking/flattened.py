"""A recipe as pairs of a path and a text, as trackers list parameters."""

from __future__ import annotations

import json
from collections.abc import Sequence


def flat(value: object, path: str) -> Sequence[tuple[str, str]]:
    """Return (dotted path, text) of everything in a value of mappings and lists."""
    if isinstance(value, dict) and value:
        items = [(str(key), member) for key, member in value.items()]
    elif isinstance(value, list) and value and any(isinstance(member, (dict, list)) for member in value):
        items = [
            (str(member["name"]) if isinstance(member, dict) and "name" in member else str(i), member)
            for i, member in enumerate(value)
        ]
    else:
        return [(path, value if isinstance(value, str) else json.dumps(value))]
    return [pair for key, member in items for pair in flat(member, f"{path}.{key}" if path else key)]
