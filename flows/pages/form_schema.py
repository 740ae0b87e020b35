"""The JSON schema from which Prefect draws a flow's form: the parameters' own, with recipes offered as a list."""

from collections.abc import Sequence
from typing import Any

from prefect import Flow
from prefect.utilities.callables import parameter_schema

_TITLES = {
    "bases": "Bases of adapters",
    "endpoint_url": "S3 endpoint",
    "expected": "Decided against entry",
    "max_shard_mb": "Largest shard in MB",
    "out": "New folder",
    "to": "Back to version",
    "who": "Your name",
    "why": "Reason",
    "work": "Work folder",
}
"""What a parameter is called where its name alone says little; the others are called by their names."""


def form_schema(flow: Flow[..., Any], recipes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the schema of a flow's form; what is submitted untouched is what the parameters' defaults are.

    Args:
        flow: One with a flat signature.
        recipes: Paths that the worker sees, which are offered as a list beside a field for any other path. The form
            begins with the first, unless the flow's own default is among them. None: just that field.
    """
    schema = parameter_schema(flow).model_dump(mode="json", exclude_unset=True)
    for part in (schema, *schema.get("definitions", {}).values()):
        for name, field in part["properties"].items():
            if field.get("title") == name:
                field["title"] = _TITLES.get(name, name.replace("_", " ").capitalize())
            if "description" in field:
                field["description"] = " ".join(field["description"].split())
            _empty_for_none(field)
            if name != "recipe":  # whose default is what is offered
                _say_default(field)
    if "recipe" in schema["properties"]:  # Prefect writes (Optional) beside whatever is not required
        schema["required"] = list(dict.fromkeys([*schema.get("required", ()), "recipe"]))
    if recipes and (field := schema["properties"].get("recipe")):
        offered = list(dict.fromkeys(recipes))
        if field.get("default") not in (None, *offered):
            field["default"] = offered[0]  # a form that is submitted untouched names what is there
        del field["type"]
        field["anyOf"] = [
            {"type": "string", "title": "From the list", "enum": offered},
            {"type": "string", "title": "Another path"},
        ]
    return schema


def _say_default(field: dict[str, Any]) -> None:
    """Let a field's description end with what it is where nobody touches it; Prefect's form says (Optional) alone."""
    default = field.get("default")
    if isinstance(default, bool):
        said = "On by default." if default else "Off by default."
    elif isinstance(default, (str, int, float)) and default != "":
        said = f"Default: {default}."
    elif default == []:
        said = "Empty by default."
    else:
        return
    field["description"] = f"{field.get('description', '')} {said}".strip()


def _empty_for_none(field: dict[str, Any]) -> None:
    """Let a field that may be None be one that may stay empty.

    Prefect draws a union with None as two tabs, of which one says *Property is type "None"*. A field without a default
    is not submitted while it is empty, and Prefect's check takes null for it as well, which a program may send.
    """
    branches = [branch for branch in field.get("anyOf", ()) if branch.get("type") != "null"]
    if len(branches) == 1 and len(field["anyOf"]) == 2 and field.get("default") is None:
        del field["anyOf"]
        field.pop("default", None)
        field.update(branches[0])
    if isinstance(field.get("default"), dict):
        field["default"] = {name: value for name, value in field["default"].items() if value is not None}
