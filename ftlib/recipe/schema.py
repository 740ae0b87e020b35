"""The recipe's JSON schema, for editors that complete and check YAML: every field with what its docstring says.

pydantic would read the docstrings too (`use_attribute_docstrings`), but for every class when it is made: that takes a
quarter of the time of `reglage check`, which shows none of them.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from ftlib.recipe.recipe import Recipe


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe (draft 2020-12)."""
    return Recipe.model_json_schema(schema_generator=_Described)


class _Described(GenerateJsonSchema):
    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        described_schema = super().model_schema(schema)
        described = field_docstrings(schema["cls"])
        for name, of_field in described_schema.get("properties", {}).items():
            if name in described:
                of_field.setdefault("description", described[name])
        return described_schema


def field_docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return what stands below each field of a class and of its bases; below `kind`, what the class says of itself."""
    texts = {"kind": _in_a_line((inspect.getdoc(model) or "").partition("\n\n")[0])}
    for base in reversed(model.__mro__):
        texts |= _written_below(base.__module__).get(base.__qualname__, {})
    return {name: texts[name] for name in model.model_fields if name in texts}


@cache
def _written_below(module: str) -> Mapping[str, Mapping[str, str]]:
    """Return the docstrings below the fields of a module's classes; of a module without a source, none."""
    try:
        classes = ast.parse(inspect.getsource(sys.modules[module])).body
    except (OSError, TypeError):
        return {}
    return {node.name: _fields(node.body) for node in classes if isinstance(node, ast.ClassDef)}


def _in_a_line(text: str) -> str:
    return " ".join(text.split())


def _fields(body: list[ast.stmt]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for field, below in pairwise(body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                texts[name] = _in_a_line(text)
            case _:
                pass
    return texts
