"""Documentation cannot rot in silence: quoted code is the code, and the how-tos' examples work."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter
from scipy.special import softmax

from ftlib.data.datasets import PreparedDataset
from ftlib.kinds.batch import Batch
from ftlib.kinds.loading import load_model
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import read_yaml
from ftlib.recipe.recipe import Recipe
from ftlib.stages.base import BaseJob, base
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.batches import global_batches
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loop import Loop, Trained
from ftlib.training.objectives.classification import Classification
from ftlib.training.phase import Optimizer, Phase
from ftlib.training.plan import Part, Plan
from ftlib.training.tuning.full import Full
from ftlib.training.worker import check_moved
from ftlib.workspace import Workspace

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_quotes_are_the_code(page: Path) -> None:
    for _, block in BLOCK.findall(page.read_text()):
        first, _, quoted = block.partition("\n")
        if found := re.fullmatch(r"# from (\S+)", first):
            assert quoted in (ROOT / found[1]).read_text(), f"{page.name} quotes {found[1]} as it no longer is"


@each_page
def test_yaml_is_well_formed(page: Path) -> None:
    for language, block in BLOCK.findall(page.read_text()):
        if language == "yaml":
            assert yaml.safe_load(block), block


@each_page
def test_yaml_of_a_recipe_is_what_a_recipe_takes(page: Path, tmp_path: Path) -> None:
    """Blocks whose keys are a recipe's, and rules within a line, each read as that part of a recipe."""
    text = page.read_text()
    found = [block for language, block in BLOCK.findall(text) if language == "yaml"]
    for block in [*found, *(f"select: {rule}" for rule in re.findall(r"`(\{rule: [^`]*\})`", text))]:
        if not {*re.findall(r"^([\w-]+)", block, re.MULTILINE)} <= {*Recipe.model_fields}:
            continue
        for part in re.findall(r"^\w.*\n?(?:^\W.*\n?)*", block, re.MULTILINE):  # a block may show alternatives
            (tmp_path / "part.yaml").write_text(part)
            ((name, value),) = read_yaml(tmp_path / "part.yaml").items()
            TypeAdapter(Recipe.model_fields[name].annotation).validate_python(value)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_the_index_names_every_stage_page_how_to_and_recipe() -> None:
    linked = {(ROOT / "docs" / target).resolve() for target in LINK.findall((ROOT / "docs/index.md").read_text())}
    pages = {*ROOT.glob("docs/*.md"), *ROOT.glob("docs/add/*.md"), *ROOT.glob("recipes/*.yaml")}
    assert sorted(str(page.relative_to(ROOT)) for page in pages - linked - {ROOT / "docs/index.md"}) == []


def example(page: str, folder: Path) -> ModuleType:
    """Import the `# new file` of a how-to."""
    block = next(code for _, code in BLOCK.findall((ROOT / page).read_text()) if code.startswith("# new file "))
    path = folder / Path(block.split()[3]).name
    path.write_text(block.partition("\n")[2])
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks the annotations up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start(tmp_path: Path) -> Checkpoint:
    model = find_model(ModelRef(path=str(tiny_classifier(tmp_path / "tiny"))))
    return base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(tmp_path))


@pytest.fixture
def data(tmp_path: Path) -> PreparedDataset:
    return tiny_prepared(tmp_path / "data", {"train": tiny_rows(96), "validation": tiny_rows(24, seed=1)})


def train_with(member: dict[str, Any], start: Checkpoint, data: PreparedDataset, folder: Path) -> tuple[Loop, Trained]:
    """Run the loop with an objective or a tuning that is in no union yet."""
    settings = Optimizer(learning_rate=3e-3, epochs=4, batch_size=16)
    fields = {"objective": Classification(), "tuning": Full(), **member}
    phase = Phase.model_construct(name="tune", dataset="d", optimizer=settings, dropout=0.0, **fields)
    plan = Plan.model_construct(
        fingerprint="0" * 16,
        start=start,
        parts=(Part(name="d", folder=data.uri),),
        run=str(folder),
        kind="labeled",
        labels=LABELS,
        phase=phase,
        precision="fp32",
        seed=3,
        compute=Compute(workers=0, threads=1),
    )
    with curves.Curves(folder, "tune", active=True) as log:
        loop = Loop(plan, Group.join(0, use_gpu=False), log)
        return loop, loop.run()


def test_the_example_objective_is_the_focal_loss_and_trains(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    focal = example("docs/add/objective.md", tmp_path).Focal
    model = load_model(start.path / "model", "labeled")
    ids = torch.arange(5, 65).reshape(6, 10)
    batch = Batch({"input_ids": ids}, torch.ones(6, dtype=torch.long), torch.tensor([0, 1, 2, 0, 1, 2]))
    expected = model(input_ids=ids, labels=batch.targets).loss * 6
    torch.testing.assert_close(focal(gamma=0.0).loss(model, batch).total, expected)
    assert focal(gamma=2.0).loss(model, batch).total < expected
    assert focal().loss(model, batch).count == 6
    loop, _ = train_with({"objective": focal()}, start, data, tmp_path)
    losses = [record["loss"] for record in curves.read(tmp_path / curves.FILE) if "loss" in record]
    assert len(losses) == loop.steps
    (split,) = loop.train
    rows = global_batches(split.sizes, 16, 3, 0)[0]
    first = split.batch(rows, loop.collate)
    with torch.no_grad():
        logits = model(**first.inputs).logits
    assert first.targets is not None
    right = softmax(logits.numpy(), axis=1)[np.arange(16), first.targets.numpy()]
    assert losses[0] == pytest.approx(np.mean((1 - right) ** 2 * -np.log(right)), rel=1e-4)


def test_the_example_tuning_moves_biases_and_the_head_only(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    bitfit = example("docs/add/tuning.md", tmp_path).BitFit
    _, trained = train_with({"tuning": bitfit()}, start, data, tmp_path)
    before = load_model(start.path / "model", "labeled")
    for name, tensor in before.state_dict().items():
        moves = name.endswith(".bias") or name.startswith("classifier")
        # softmax ignores what a key's bias adds to every score: rounding alone moves it, or nothing does
        if not name.endswith("key.bias"):
            assert torch.equal(tensor, trained.weights[name]) != moves, name
    moved = dict.fromkeys(trained.weights, 1.0) | dict.fromkeys((n for n in trained.weights if "key.bias" in n), 0.0)
    check_moved(bitfit().prepare(before, "labeled", ["classifier"]), trained, lambda: moved)
