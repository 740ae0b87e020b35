"""`reglage schema`: an editor says what every field means, and the recipes here are valid by it."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field

from ftlib.config import Config
from ftlib.evaluation.metrics.f1 import F1
from ftlib.evaluation.metrics.macro_f1 import MacroF1
from ftlib.recipe.schema import field_docstrings, recipe_schema

_SAYS_NOTHING = {"the", "a", "an", "of", "its", "this", "s", "is", "for"}


def words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall("[a-z]+", text.lower())} - _SAYS_NOTHING


def test_every_field_of_a_recipe_says_what_it_means():
    schema = recipe_schema()
    models: dict[str, dict[str, Any]] = {"Recipe": schema, **schema["$defs"]}
    said = {
        f"{model}.{name}": field.get("description", "")
        for model, of_model in models.items()
        for name, field in of_model.get("properties", {}).items()
    }
    assert len(said) > 250
    assert [field for field, text in said.items() if not words(text) - words(field.rpartition(".")[2])] == []
    assert said["AdamW.batch_size"] == "Rows per optimiser step, over all workers."
    assert said["F1.label"] == "One of the model's labels."  # written at a base class
    assert said["MacroF1.kind"] == MacroF1.__doc__ != said["F1.kind"]


class Plain(Config):
    bare: int = 0
    told: int = Field(default=0, description="told otherwise")
    """not by this"""


class Made(Plain):
    """What was made.

    At length.
    """

    kind: Literal["made"] = "made"
    own: int = 0
    """Over
    two lines."""


def test_docstrings_are_joined_over_the_bases_and_never_touch_the_class():
    assert field_docstrings(Made) == {"told": "not by this", "own": "Over two lines.", "kind": "What was made."}
    assert F1.model_fields["label"].description is None
