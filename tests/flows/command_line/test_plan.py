"""What a plan says of trainings whose model or whose trained layers are not the base model's."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pytest

from flows.command_line.plan import make_plan
from ftlib.recipe.file import load_recipe
from ftlib.testing import tiny_recipe
from ftlib.training.process_bytes import PROCESS
from ftlib.workspace import Workspace

pytestmark = pytest.mark.slow  # a second of matrix products for every plan


def test_stages_of_gradual_unfreezing_and_a_model_without_a_layer(tmp_path: Path) -> None:
    path, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    asked = ["phases.tune.tuning={kind: gradual_unfreezing}", "phases.tune.optimizer.epochs=3"]
    plan = make_plan(load_recipe(path, asked), work, prepare=True)
    tune, batch = plan.phases[1], load_recipe(path, asked).phases[1].optimizer.batch_size
    epoch = ceil(tune.rows / batch)
    assert [thaw.step for thaw in tune.thaws] == [1 + i * epoch for i in range(4)]
    assert [thaw.steps for thaw in tune.thaws] == [epoch, epoch, epoch, 0]
    sizes = [thaw.trained for thaw in tune.thaws]
    assert sizes == sorted(sizes)
    assert sizes[-1] == tune.trained == tune.parameters
    assert tune.seconds == max(0.1, round(sum(thaw.seconds for thaw in tune.thaws), 1))

    less = make_plan(load_recipe(path, ["prune={dataset: home, layers: 1}"]), work, prepare=True)
    whole = make_plan(load_recipe(path), work, prepare=True)
    assert [stage.stage for stage in less.stages].index("prune") == [s.stage for s in whole.stages].index("base") + 1
    layer = tune.thaws[2].trained - tune.thaws[1].trained  # the lower layer alone
    assert less.phases[1].parameters == whole.phases[1].parameters - layer
    assert less.phases[1].memory["weights"] == whole.phases[1].memory["weights"] - 4 * layer
    assert not less.phases[1].thaws


def test_a_fisher_information_holds_weights_gradient_and_squares(tmp_path: Path) -> None:
    path, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    ewc = ["phases.tune.penalty={kind: ewc, datasets: [home], rows: 9}", "publish.fisher={datasets: [home]}"]
    plan = make_plan(load_recipe(path, ewc), work, prepare=True)
    tune, publish = plan.scorings
    assert [tune.name, publish.name] == ["fisher for tune", "fisher to publish"]
    assert {tune.name, publish.name} <= {stage.stage for stage in plan.stages}
    assert tune.rows == 9
    assert publish.rows == plan.phases[1].rows
    assert tune.memory_bytes - PROCESS["cpu"] == 12 * plan.phases[1].parameters
