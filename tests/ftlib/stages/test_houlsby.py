"""A phase of bottleneck adapters: what moves, what is kept, what goes on, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.loading import load, load_model, merged
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.file import load_recipe
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_checkpoint, tiny_prepared, tiny_recipe, tiny_rows
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

BOTTLENECKS = {"kind": "houlsby", "width": 4}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("houlsby") / "start")


@pytest.fixture(scope="module")
def end(start: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return trained(tmp_path_factory.mktemp("houlsby"), start)


def trained(root: Path, start: Checkpoint, tuning: dict[str, Any] = BOTTLENECKS, **compute: Any) -> Checkpoint:
    rows = tiny_rows(30)
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "rows",
            "objective": {"kind": "classification"},
            "tuning": tuning,
            "optimizer": {"learning_rate": 3e-3, "epochs": 2, "batch_size": 12},
            "dropout": 0.0,
        }
    )
    job = TrainJob(
        start=start,
        data=tiny_prepared(root / "data", {"train": rows[:24], "validation": rows[24:]}),
        phase=phase,
        precision="fp32",
        seed=7,
        compute=Compute.model_validate({"workers": 0, "threads": 1, **compute}),
    )
    return train(job, Workspace(root / "work"))


def test_bottlenecks_norms_and_head_move_and_nothing_else(start: Checkpoint, end: Checkpoint) -> None:
    before = dict(load_model(start.folder, "labeled").named_parameters())
    after = dict(load(end, "labeled").named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "LayerNorm" in name or name.startswith("classifier")}
    new = after.keys() - before.keys()
    assert all(".bottleneck." in name for name in new)
    assert {*load_file(end.folder / "adapter_model.safetensors")} == moved | new
    assert (end.form, end.base and end.base.uri) == ("adapter", str(start.folder))
    assert end.trained_parameters == sum(after[name].numel() for name in moved | new)
    assert end.facts["predicted_weights_bytes"] >= 4 * sum(p.numel() for p in after.values())


def test_the_split_of_a_batch_changes_nothing(start: Checkpoint, end: Checkpoint, tmp_path: Path) -> None:
    split = trained(tmp_path, start, micro_batch_size=5, activation_checkpointing="full")
    whole, pieces = (load_file(one.folder / "adapter_model.safetensors") for one in (end, split))
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_a_phase_goes_on_with_them_and_a_dense_one_is_refused(end: Checkpoint, tmp_path: Path) -> None:
    again = trained(tmp_path / "again", end)
    assert (again.form, again.base, again.parent) == ("adapter", end.base, end.weights)
    assert again.weights != end.weights
    with pytest.raises(ModelError, match="bottleneck adapters have no merged form, and stock transformers loads none"):
        trained(tmp_path / "dense", end, {"kind": "full"})
    with pytest.raises(RecipeError, match="bottlenecks of width 4 and 'gelu', got 8 and 'gelu'"):
        trained(tmp_path / "wide", end, {"kind": "houlsby", "width": 8})
    with pytest.raises(ModelError, match="no merged form"):
        merged(load(end, "labeled"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interpolation": {"kind": "wise_ft"}}, "phases.tune..tuning: ends in an adapter.*interpolation: off"),
        ({"publish": {"name": "tiny", "adapter": True}}, "publish.adapter: "),
        ({"tuning": {**BOTTLENECKS, "keep": "merged"}}, "keep"),
    ],
)
def test_what_stock_transformers_could_not_load_is_refused_by_the_check(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = tiny_recipe(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    recipe["interpolation"], recipe["select"] = {"kind": "off"}, {"by": "away/accuracy"}
    recipe["phases"][1]["tuning"] = changes.pop("tuning", BOTTLENECKS)
    path.write_text(yaml.safe_dump({**recipe, **changes}))
    with pytest.raises(RecipeError, match=words):
        load_recipe(path)
