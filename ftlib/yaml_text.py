"""YAML as a recipe is written in it: 1.2's plain values, and no key twice."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml


def read_value(text: str) -> Any:
    """Return what a text says: a value, a list or a mapping. Raises yaml.YAMLError, or RecursionError if too deep."""
    return yaml.load(text, _Loader)


_PLAIN_VALUES = {
    "bool": (r"true|false|True|False", [*"tfTF"]),
    "null": (r"~|null|Null|", [*"~nN", ""]),
    "int": (r"[-+]?[0-9]+", [*"-+0123456789"]),
    "float": (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    "merge": ("<<", ["<"]),
}
"""What a word without quotes is: a pattern, and the characters that such a word begins with; "" is no word at all."""


def _read_plain_values(loader: type[yaml.SafeLoader]) -> type[yaml.SafeLoader]:
    for tag, (pattern, firsts) in _PLAIN_VALUES.items():
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), firsts)
    # PyYAML's own constructors read 010 as 8 and 1_000 as 1000.
    loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
    loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))
    return loader


@_read_plain_values
class _Loader(yaml.SafeLoader):
    """YAML 1.2's plain values, and no key twice.

    YAML 1.1, PyYAML's default, reads `off` as false (so `kind: off` would be no kind), `1e-4` as a string and
    `12:30` as 750.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # the base class's own, not shared

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)
