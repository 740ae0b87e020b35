"""A run whose objective asks a teacher and reads scores: what is planned for them, and what the version says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from flows.command_line.main import main
from flows.command_line.plan import make_plan
from flows.steps import inputs, steps
from ftlib.config import BatchKind, Config
from ftlib.data.prepared import split_file
from ftlib.errors import RecipeError
from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.open_split import open_split
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe import resources
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.stages.step import walk
from ftlib.testing import LABELS, tiny_classifier, tiny_recipe
from ftlib.training.footprint import Footprint
from ftlib.training.phase import Companion
from ftlib.training.process_bytes import PROCESS
from ftlib.workspace import Workspace

# No union knows this objective, so pydantic doubts what it writes.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")


class Taught(Config):
    kind: Literal["taught"] = "taught"
    needs: ClassVar[BatchKind] = "labeled"
    companions: ClassVar[tuple[str, ...]] = ("teacher",)
    scores: ClassVar[tuple[str, ...]] = ("reference", "judge")

    def loss(self, model: Any, batch: Batch, companions: Mapping[str, nn.Module]) -> LossSum:
        said = model(**batch.inputs).logits
        taught = companions["teacher"](**batch.inputs).logits + batch.columns["reference"] + batch.columns["judge"]
        return LossSum(nn.functional.mse_loss(said, taught, reduction="sum"), len(batch))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("large"), LABELS, hidden=64)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, large: Path) -> Recipe:
    recipe = load_recipe(tiny_recipe(tmp_path_factory.mktemp("taught")))
    elsewhere = Companion(model=ModelRef(path=str(large)))
    scores = {"reference": Companion(phase="probe"), "judge": elsewhere}
    taught = {"objective": Taught(), "companions": {"teacher": elsewhere}, "scores": scores}
    return recipe.model_copy(update={"phases": (recipe.phases[0], recipe.phases[1].model_copy(update=taught))})


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("work"))


def weight_bytes(folder: Path) -> int:
    return sum(4 * tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


def test_plan_counts_what_frozen_models_hold_and_take(recipe: Recipe, large: Path, work: Workspace) -> None:
    plan = make_plan(recipe, work, prepare=True)
    probe, tune = recipe.phases
    bare = tune.model_copy(update={"companions": {}, "scores": {}})
    alone = make_plan(recipe.model_copy(update={"phases": (probe, bare)}), work)
    places = 2 * 8 * 128  # what BERT counts positions and segments by, which is in no file
    assert plan.phases[1].memory["companions"] == weight_bytes(large) + places
    assert alone.phases[1].memory["companions"] == 0
    assert plan.phases[0] == alone.phases[0].model_copy(update={"seconds": plan.phases[0].seconds})
    by_reference, by_judge = plan.scorings
    assert (by_reference.name, by_judge.name) == ("score home by reference for tune", "score home by judge for tune")
    assert {by_reference.name, by_judge.name} <= {stage.stage for stage in plan.stages}
    assert by_judge.memory_bytes - PROCESS["cpu"] == weight_bytes(large)
    held, read = (open_split(split_file(prepared_home(work), split), LABELS) for split in ("validation", "train"))
    assert by_judge.rows == len(held) + len(read)
    assert by_judge.tokens == int(held.sizes.sum() + read.sizes.sum())
    assert alone.scorings == ()


def prepared_home(work: Workspace) -> Path:
    """Return the larger one of the two datasets."""
    return max((work.root / "stages" / "preprocess").glob("*/train.arrow"), key=lambda f: f.stat().st_size).parent


@pytest.mark.parametrize(("part", "words"), [("companions", ""), ("scores", r"\.scores\.judge")])
def test_a_frozen_model_that_the_memory_does_not_hold_is_refused(
    recipe: Recipe, large: Path, monkeypatch: pytest.MonkeyPatch, part: str, words: str
) -> None:
    model, other = Path(recipe.model.path), "scores" if part == "companions" else "companions"
    tune = recipe.phases[1].model_copy(update={other: {}, "precision": "fp32"})
    asked = recipe.model_copy(update={"phases": (recipe.phases[0], tune)})
    bare = recipe.model_copy(update={"phases": (recipe.phases[0], tune.model_copy(update={part: {}}))})
    monkeypatch.setattr(resources, "of_machine", lambda: weight_bytes(large) * 99 // 100)
    found = {"tune": {name: find_model(said.model) for name, said in tune.beside.items() if said.model}}
    monkeypatch.setattr("ftlib.training.footprint.footprint", small)
    resources.check_resources(bare, model, found)
    with pytest.raises(
        RecipeError, match=rf"phases\[tune\]{words}: 1 worker with .* hold at least .* but this machine has"
    ):
        resources.check_resources(asked, model, found)


def small(*_: object) -> Footprint:
    return Footprint(parameters=10, trained=1, computing=5, hidden=4)


def test_a_version_names_every_frozen_model_that_had_a_part_in_it(recipe: Recipe, large: Path, work: Workspace) -> None:
    outcome = walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
    assert outcome is not None
    probe = outcome.evidence.checkpoints[1]
    weights = find_model(ModelRef(path=str(large))).weights
    registry = ModelRegistry(recipe.publish.to.store())
    version = registry.version(recipe.publish.name)
    said: Any = registry.manifest(version).lineage["companions"]
    assert [(one["phase"], one["name"], one["use"], one["model"], one["weights"]) for one in said] == [
        ("tune", "teacher", "companion", str(large), weights),
        ("tune", "reference", "scores", "the end of probe", probe.weights),
        ("tune", "judge", "scores", str(large), weights),
    ]
    registry.pull(version, pulled := work.root / "pulled")
    card = (pulled / "README.md").read_text()
    assert f"beside the frozen `teacher` (`{large}`, weights `{weights[:12]}`)" in card
    assert f"with scores of the frozen `reference` (`the end of probe`, weights `{probe.weights[:12]}`)" in card
    text = CliRunner().invoke(main, ["lineage", str(version), "--registry", registry.store.uri], env={"COLUMNS": "300"})
    for part in ("companion of tune", f"teacher: {large}, weights {weights[:12]}", "reference: the end of probe"):
        assert part in text.stdout

    again = make_plan(recipe, work)
    assert [one.seconds for one in again.scorings] == [0, 0]
    assert {stage.state for stage in again.stages} == {"done", "every run"}
