"""One task after another, from rows to a version that carries what its rows need, and to one that keeps it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from flows.run.steps import inputs, steps
from ftlib.errors import ModelError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry import ModelRegistry
from ftlib.stages.step import walk
from ftlib.testing import tiny_recipe
from ftlib.training.fisher.record import FILE, FOLDER, read_carried
from ftlib.workspace import Workspace

LEARN = {"objective": {"kind": "classification"}, "optimizer": {"epochs": 1, "batch_size": 8}}


def changed(path: Path, file: str, **changes: Any) -> Recipe:
    """Return the recipe in a file with other top-level parts."""
    other = path.with_name(f"{file}.yaml")
    other.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}, sort_keys=False))
    return load_recipe(other, ["datasets.away.split.validation=0.2", "datasets.away.split.test=0.2"])


@pytest.mark.slow
def test_a_version_carries_what_its_rows_need_and_a_run_from_it_keeps_them(tmp_path: Path) -> None:
    path, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    publish = {**yaml.safe_load(path.read_text())["publish"], "fisher": {"datasets": ["home", "away"], "rows": 4}}
    first = changed(
        path,
        "first",
        publish=publish,
        phases=[
            {"name": "probe", "dataset": "home", **LEARN, "tuning": {"kind": "linear_probe"}},
            {"name": "home", "dataset": "home", **LEARN, "tuning": {"kind": "full"}},
            {
                **{"name": "away", "dataset": "away", **LEARN, "tuning": {"kind": "full"}},
                "penalty": {"kind": "ewc", "datasets": ["home"], "rows": 5},
            },
        ],
    )
    outcome = walk(steps(first, work, inputs(first, work)), lambda step: step.stage(step.job, work))
    assert outcome is not None
    evidence = outcome.evidence
    assert evidence.checkpoints[-1].facts["fisher_rows"] == 5
    page = (outcome.report.path / "report.md").read_text()
    assert "Phase by phase" in page
    assert "Backward transfer" in page
    registry = ModelRegistry(first.publish.to.store())
    version = registry.version(first.publish.name)
    registry.pull(version, pulled := tmp_path / "pulled")
    lineage: Any = registry.manifest(version).lineage
    assert (lineage["fisher"]["rows"], lineage["fisher"]["datasets"]) == (8, ["away", "home"])
    weights, importance = load_file(pulled / "model.safetensors"), load_file(pulled / FOLDER / FILE)
    assert {name: of.shape for name, of in importance.items()} == {name: weights[name].shape for name in importance}

    tuned = {"name": "again", "dataset": "away", **LEARN, "tuning": {"kind": "full"}, "penalty": {"kind": "ewc"}}
    off = {"kind": "off"}
    again = changed(path, "again", model={"path": str(pulled)}, phases=[tuned], interpolation=off, name="again")
    kept = walk(steps(again, work, inputs(again, work)), lambda step: step.stage(step.job, work))
    assert kept is not None
    carried = read_carried(kept.evidence.model)
    assert kept.evidence.checkpoints[-1].facts["fisher"] == carried.content[:16]
    (pulled / FOLDER / FILE).write_bytes(b"x")
    with pytest.raises(ModelError, match="has other bytes than its record says"):
        inputs(again, work)


def test_a_model_that_carries_none_is_refused_before_its_rows_are_read(tmp_path: Path) -> None:
    tuned = {"name": "tune", "dataset": "home", **LEARN, "tuning": {"kind": "full"}, "penalty": {"kind": "ewc"}}
    asked = changed(tiny_recipe(tmp_path), "asked", phases=[tuned], interpolation={"kind": "off"})
    with pytest.raises(ModelError, match=r"carries no Fisher information, .* published with publish\.fisher"):
        inputs(asked, Workspace(tmp_path / "work"))
