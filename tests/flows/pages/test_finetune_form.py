from collections.abc import Iterator
from typing import Any, get_args

import pytest
from prefect.utilities.callables import parameter_schema

from flows.finetune import finetune
from flows.pages.finetune_form import Computing, Publishing, Training, answered_recipe
from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.training.tuning import Tuning


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return parameter_schema(finetune).model_dump()


def objects(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    yield from schema.get("definitions", {}).values()


def test_the_form_has_no_union_of_models_and_no_secret(schema):
    """Prefect's form submits the wrong branch of the first, and the stars of the second."""
    for part in objects(schema):
        for name, field in part["properties"].items():
            assert "oneOf" not in field, name
            assert not any("$ref" in branch for branch in field.get("anyOf", [])), name
            assert field.get("format") != "password", name


def test_every_field_has_a_title_a_place_and_a_default(schema):
    for part in objects(schema):
        positions = [field["position"] for field in part["properties"].values()]
        assert sorted(positions) == list(range(len(positions)))
        for name, field in part["properties"].items():
            assert field.get("title"), name
            assert "default" in field, name


def test_the_form_asks_for_what_people_change(schema):
    groups = {name: list(part["properties"]) for name, part in schema["definitions"].items()}
    parameters = ["recipe", "training", "publishing", "computing", "tracking", "overrides", "work"]
    assert list(schema["properties"]) == parameters
    assert groups == {
        "Training": ["tuning", "learning_rate", "epochs", "batch_size", "lora_rank", "frozen_layers", "seed"],
        "Publishing": ["name", "registry_folder", "description"],
        "Computing": ["workers", "threads", "budget"],
        "Tracking": ["tensorboard", "mlflow"],
    }


def test_an_untouched_form_is_the_recipe(schema, tiny_recipe):
    """What the form submits when nothing is touched is its defaults, as JSON."""
    untouched = {name: field["default"] for name, field in schema["properties"].items()} | {"recipe": str(tiny_recipe)}
    given = finetune.validate_parameters(untouched)
    made = answered_recipe(given["recipe"], given["training"], given["publishing"], given["computing"], [])
    assert made == load_recipe(tiny_recipe)


def test_answers_reach_the_strict_recipe(tiny_recipe):
    made = answered_recipe(
        str(tiny_recipe),
        Training(tuning="lora", learning_rate=0.5, epochs=2, batch_size=4, lora_rank=3, seed=9),
        Publishing(name="other", registry_folder="it's here: {really}", description="off"),
        Computing(workers=2, threads=1),
        ["phases.tune.tuning.alpha=6"],
    )
    tune = made.phases[-1]
    assert (tune.tuning.kind, tune.tuning.rank, tune.tuning.alpha) == ("lora", 3, 6.0)
    assert (tune.optimizer.learning_rate, tune.optimizer.epochs, tune.optimizer.batch_size) == (0.5, 2, 4)
    assert (made.publish.name, made.publish.to.path, made.publish.description) == (
        "other",
        "it's here: {really}",
        "off",
    )
    assert (made.compute.workers, made.compute.threads, made.seed) == (2, 1, 9)
    assert made.phases[0] == load_recipe(tiny_recipe).phases[0]


def test_every_tuning_is_on_offer_and_frozen_layers_are_counted(schema, tiny_recipe):
    offered = schema["definitions"]["Training"]["properties"]["tuning"]["enum"]
    members = get_args(get_args(Tuning)[0])
    assert offered == ["from recipe", *(member.model_fields["kind"].default for member in members)]
    answers = Training(tuning="frozen_layers", frozen_layers=1)
    tune = answered_recipe(str(tiny_recipe), answers, Publishing(), Computing(), []).phases[-1]
    assert (tune.tuning.kind, tune.tuning.layers) == ("frozen_layers", 1)
    with pytest.raises(RecipeError, match="'loar'"):
        answered_recipe(str(tiny_recipe), Training(tuning="loar"), Publishing(), Computing(), [])


def test_answers_that_do_not_fit_together_are_refused(tiny_recipe):
    with pytest.raises(RecipeError, match="rank"):
        answered_recipe(str(tiny_recipe), Training(tuning="full", lora_rank=3), Publishing(), Computing(), [])
