"""What Prefect's form is drawn from: an untouched form does what Python's defaults do, whatever the flow."""

import inspect
from typing import Any

import pytest
from prefect import Flow
from prefect.utilities.schema_tools.validation import is_valid, validate

from flows.evaluate import evaluate
from flows.finetune import finetune
from flows.interpolate import interpolate
from flows.monitor import monitor
from flows.pages.form_schema import form_schema
from flows.promote import promote, rollback
from flows.retrain import retrain
from flows.search import search

FLOWS = [finetune, retrain, search, monitor, evaluate, interpolate, promote, rollback]
ASKED = {"model": "router", "version": 3, "models": ["router@3"], "checkpoints": ["a", "b"], "out": "mixed"}
OWN = ["recipes/quickstart.yaml", "recipes/fresh_data.yaml", "recipes/search.yaml", "recipes/monitored.yaml"]
RECIPES = [*OWN, "recipes/mine.yaml"]
of_each = pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)


def parts(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return [schema, *schema.get("definitions", {}).values()]


@of_each
def test_an_untouched_form_does_what_the_defaults_do(flow: Flow[Any, Any]) -> None:
    schema = form_schema(flow, RECIPES)
    asked = {name: ASKED[name] for name in schema.get("required", []) if "default" not in schema["properties"][name]}
    untouched = {name: field["default"] for name, field in schema["properties"].items() if "default" in field} | asked
    validate(untouched, schema, raise_on_error=True)
    defaults = {name: p.default for name, p in inspect.signature(flow.fn).parameters.items()} | asked
    given = inspect.signature(flow.fn).bind(**flow.validate_parameters(untouched))
    given.apply_defaults()
    assert given.arguments == defaults


@of_each
def test_a_program_may_send_null_where_a_person_leaves_a_field_empty(flow: Flow[Any, Any]) -> None:
    schema = form_schema(flow, RECIPES)
    asked = {name: ASKED[name] for name in schema.get("required", []) if name in ASKED}
    said = {name: p.default for name, p in inspect.signature(flow.fn).parameters.items()} | asked
    plain = {name: value.model_dump() if hasattr(value, "model_dump") else value for name, value in said.items()}
    assert is_valid(plain, schema)
    assert not is_valid(plain | {"unknown": 1}, schema | {"additionalProperties": False})


@of_each
def test_the_form_is_plain(flow: Flow[Any, Any]) -> None:
    for part in parts(form_schema(flow, RECIPES)):
        fields = part["properties"]
        assert sorted(field["position"] for field in fields.values()) == list(range(len(fields)))
        for name, field in fields.items():
            assert field["title"][:1].isupper(), name
            assert field["title"] != name
            assert "None" not in field.get("description", ""), name
            assert "oneOf" not in field, name
            assert name == "recipe" or "anyOf" not in field, name
            assert field.get("format") != "password", name


@of_each
def test_what_is_required_and_what_is_the_default(flow: Flow[Any, Any]) -> None:
    schema, own = form_schema(flow, RECIPES), inspect.signature(flow.fn).parameters
    must = {name for name, parameter in own.items() if parameter.default is inspect.Parameter.empty}
    assert {*schema.get("required", [])} == must | ({"recipe"} & own.keys())  # Prefect says (Optional) beside the rest
    for name, field in schema["properties"].items():
        default = field.get("default")
        if isinstance(default, str) and default and name != "recipe":
            assert field["description"].endswith(f"Default: {default}."), name
        if isinstance(default, bool):
            assert field["description"].endswith(f"{'On' if default else 'Off'} by default."), name


def test_recipes_are_a_list_and_any_other_path() -> None:
    field = form_schema(finetune, ["recipes/mine.yaml"])["properties"]["recipe"]
    chosen, other = field["anyOf"]
    assert chosen["enum"] == ["recipes/mine.yaml"]
    assert field["default"] == "recipes/mine.yaml"  # quickstart may not be there
    assert other == {"type": "string", "title": "Another path"}
    assert "type" not in field
    assert form_schema(finetune)["properties"]["recipe"]["type"] == "string"
    schema = form_schema(finetune, ["recipes/mine.yaml"])
    assert is_valid({"recipe": "elsewhere/own.yaml"}, schema)
    assert not is_valid({"recipe": 3}, schema)
