"""A run whose objective asks a teacher and reads scores: what is planned for them, and what the version says."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from click.testing import CliRunner
from safetensors.torch import load_file
from torch import nn

from flows.command_line.main import main
from flows.planning.plan import make_plan
from flows.run.companion_jobs import reference_job
from flows.run.models_beside import beside_phase
from flows.run.steps import inputs, steps
from ftlib.config import BatchKind, Config
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.open_split import open_split
from ftlib.kinds.published_processor import settle_tokenizer
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model, processor_digest
from ftlib.models.reference import ModelRef
from ftlib.recipe import resources
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.stages.step import Step, walk
from ftlib.stages.train import TrainJob
from ftlib.testing import LABELS, tiny_chat_lm, tiny_classifier, tiny_preferences, tiny_recipe, tiny_thumbs, write_jsonl
from ftlib.training.memory.footprint import Footprint
from ftlib.training.memory.process_bytes import PROCESS
from ftlib.training.phase import Companion
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


@pytest.mark.parametrize(
    ("labels", "named", "stages"),
    [
        (LABELS, r"phases\[tune\]\.scores\.teacher: its tokenizer or image processor is not the model's", set()),
        (
            LABELS[::-1],
            r"phases\[tune\]\.scores\.teacher: its labels are sales, bug, billing, the model's billing, bug, sales",
            {"ingest", "preprocess"},
        ),
    ],
)
def test_a_teacher_that_cannot_be_asked_is_refused_before_anything_trains(
    tmp_path: Path, labels: tuple[str, ...], named: str, stages: set[str]
) -> None:
    """Another tokenizer before a row is read, other labels as soon as those of the rows are known."""
    teacher = tiny_classifier(tmp_path / "teacher", labels, seed=3)
    if not stages:
        (teacher / "tokenizer_config.json").write_text('{"model_max_length": 64}')
    made = list[str]()
    with pytest.raises(ModelError, match=named):
        distil(tmp_path, teacher, made, "train probe")
    assert {*made} == stages


class Reached(Exception):
    """The run is as far as the test looks."""


def distil(tmp_path: Path, teacher: Path, made: list[str], last: str) -> None:
    """Run a recipe that learns from a teacher up to a step, and tell its stages."""
    taught = {"objective": "{kind: distillation}", "scores": f"{{teacher: {{model: {{path: {teacher}}}}}}}"}
    recipe = load_recipe(tiny_recipe(tmp_path), [f"phases.tune.{name}={value}" for name, value in taught.items()])
    work = Workspace(tmp_path / "work")

    def make(step: Step) -> Any:
        assert step.job
        made.append(step.job.stage)
        artifact = step.stage(step.job, work)
        if step.label == last:
            raise Reached
        return artifact

    walk(steps(recipe, work, inputs(recipe, work)), make)


def test_a_published_version_of_the_same_base_teaches(tmp_path: Path) -> None:
    """Publishing writes to its tokenizer's file how rows were made; the tokens are the base's."""
    teacher = tiny_classifier(tmp_path / "teacher", LABELS, seed=3)
    before = processor_digest(teacher)
    settle_tokenizer(teacher, "labeled", "split")
    assert processor_digest(teacher) != before
    with pytest.raises(Reached):
        distil(tmp_path, teacher, made := list[str](), "train tune")
    assert (made.count("score"), made.count("train")) == (1, 2)


def weight_bytes(folder: Path) -> int:
    return sum(4 * tensor.numel() for tensor in load_file(folder / "model.safetensors").values())


@pytest.mark.slow
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
    monkeypatch.setattr("ftlib.training.memory.footprint.footprint", small)
    resources.check_resources(bare, model, found)
    with pytest.raises(
        RecipeError, match=rf"phases\[tune\]{words}: 1 worker with .* hold at least .* but this machine has"
    ):
        resources.check_resources(asked, model, found)


def small(*_: object) -> Footprint:
    return Footprint(parameters=10, trained=1, computing=5, hidden=4)


@pytest.mark.slow
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


ANCHORED = """
name: anchored
model: {{path: {folder}/model}}
datasets:
  rows:
    source: {{kind: files, path: {folder}/rows.jsonl}}
    format: {format}
phases:
  - name: prefer
    dataset: rows
    objective: {{kind: {objective}}}
    scores: {{reference: {{phase: base}}}}
    tuning: {{kind: qlora, rank: 2}}
    optimizer: {{epochs: 1}}
evaluations: {{fit: {{dataset: rows, reference: {{phase: base}}, metrics: [{{kind: {metric}}}]}}}}
select: {{by: fit/{metric}}}
compute: {{workers: 0, threads: 1}}
publish: {{name: anchored}}
"""
PAIRS = "{kind: preference, prompt: prompt, chosen: chosen, rejected: rejected, max_tokens: 40}"
THUMBS = "{kind: thumb, prompt: prompt, answer: answer, label: label, max_tokens: 40}"


@pytest.mark.parametrize("objective", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_a_policy_over_four_bits_is_kept_near_the_rounded_model(tmp_path: Path, objective: str) -> None:
    """Its first loss is that of a model that is its own reference, which the run holds it to."""
    pairs = objective == "dpo"
    tiny_chat_lm(tmp_path / "model", hidden=64)
    write_jsonl(tmp_path / "rows.jsonl", tiny_preferences(60) if pairs else tiny_thumbs(60))
    words = {"format": PAIRS if pairs else THUMBS, "metric": "reward_margin" if pairs else "thumb_auroc"}
    (tmp_path / "r.yaml").write_text(ANCHORED.format(folder=tmp_path, objective=objective, **words))
    recipe, work = load_recipe(tmp_path / "r.yaml"), Workspace(tmp_path / "work")
    trail, rows = list[Checkpoint](), list[PreparedDataset]()

    class Trained(Exception):
        pass

    def make(step: Step) -> Any:
        assert step.job
        if isinstance(made := step.stage(step.job, work), Checkpoint):
            trail.append(made)
        if isinstance(made, PreparedDataset):
            rows.append(made)
        if isinstance(step.job, TrainJob):
            assert step.job.scored_by_start == ("reference",)
            raise Trained
        return made

    with pytest.raises(Trained):
        walk(steps(recipe, work, inputs(recipe, work)), make)
    assert [end.phase for end in trail] == ["base", "base-4bit", "prefer"]
    first = json.loads((trail[-1].path / "curves.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2) if pairs else 0.5, abs=1e-5)
    assert beside_phase(recipe.phases[0], trail, {}) == {"reference": trail[1]}
    assert reference_job(recipe, "fit", trail, {"rows": rows[0]}).model == trail[1]
    later = recipe.phases[0].model_copy(update={"name": "later"})
    assert beside_phase(later, trail, {}) == {"reference": trail[0]}  # the other one was rounded for another phase
