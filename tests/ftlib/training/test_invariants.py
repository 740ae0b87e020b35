"""What fails a training that looks fine: a lone worker, ranks that drifted apart, weights that moved or did not."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from ftlib.errors import TrainingError
from ftlib.kinds.loading import load_model
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.checkpoints.resumable import State
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loops.attempt import Trained
from ftlib.training.objectives.classification import Classification
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.plan import Part, Plan
from ftlib.training.tuning.full import Full
from ftlib.training.worker import _gradients, check_moved
from tests.ftlib.training.ranks import in_ranks


def drift(group: Group, nudge: float) -> str:
    model = group.spread(nn.Linear(3, 3), Compute())  # DDP starts all ranks from rank 0's weights
    try:
        group.check_agreement(model, 1)
        if group.rank == 1:
            with torch.no_grad():
                next(model.parameters())[0, 0] += nudge
        group.check_agreement(model, 2)
    except TrainingError as error:
        return str(error)
    return "agree"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("nudge", "words"),
    [
        (0.0, "agree"),
        (1e-6, "after step 2 the parameters of ranks [1] differ"),
    ],
)
def test_ranks_that_drift_apart_are_found(tmp_path: Path, nudge: float, words: str) -> None:
    assert all(words in said for said in in_ranks(2, drift, tmp_path, nudge))


def test_a_worker_that_finds_itself_alone_is_an_error() -> None:
    with pytest.raises(TrainingError, match="2 workers were asked for, 1 found each other"):
        Group.join(2, use_gpu=False)


@pytest.fixture
def start() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    return model


def trained(start: nn.Module, steps: int = 5, **changes: float) -> Trained:
    model = copy.deepcopy(start)
    with torch.no_grad():
        for name, change in {"1.weight": 0.1, "1.bias": 0.1, **changes}.items():
            model.get_parameter(name).add_(change)
    return Trained(model, State(step=steps), frozenset(), {})


def test_what_should_move_moved_and_the_rest_did_not(start: nn.Module) -> None:
    def alike() -> dict[str, float]:
        return {"1.weight": 1.0, "1.bias": 1.0}

    check_moved(start, trained(start), alike)
    with pytest.raises(TrainingError, match=r"frozen parameters moved: 0\.weight"):
        check_moved(start, trained(start, **{"0.weight": 1e-7}), alike)
    with pytest.raises(TrainingError, match=r"1 trainable parameters did not move in 5 steps, among them 1\.bias"):
        check_moved(start, trained(start, **{"1.bias": 0.0}), alike)
    with pytest.raises(TrainingError, match=r"parameter 1\.weight is not finite"):
        check_moved(start, trained(start, **{"1.weight": float("nan")}), alike)
    with pytest.raises(TrainingError, match="no optimiser step was done"):
        check_moved(start, trained(start, steps=0), alike)


def test_what_has_no_gradient_beside_the_others_need_not_move(start: nn.Module) -> None:
    still = trained(start, **{"1.bias": 0.0})
    check_moved(start, still, lambda: {"1.weight": 1.0, "1.bias": 1e-7})
    with pytest.raises(TrainingError, match=r"1 trainable parameters did not move .* 1\.bias"):
        check_moved(start, still, lambda: {"1.weight": 1.0, "1.bias": 1e-3})
    nothing = trained(start, **{"1.bias": 0.0, "1.weight": 0.0})
    for gradient in (0.0, 1e-20, 1.0):  # a model that does not train at all is found, however small its gradients
        with pytest.raises(TrainingError, match="2 trainable parameters did not move"):
            check_moved(start, nothing, lambda size=gradient: {"1.weight": size, "1.bias": size})


def test_the_keys_biases_of_attention_have_no_gradient_beside_the_others(tmp_path: Path) -> None:
    """Softmax ignores what they add to all of a row's scores; every other parameter of a BERT is learnt."""
    data, start = tiny_prepared(tmp_path / "data", {"train": tiny_rows(60)}), tiny_checkpoint(tmp_path / "start")
    settings = AdamW(learning_rate=1e-3, epochs=1, batch_size=8)
    phase = Phase(name="tune", dataset="d", objective=Classification(), tuning=Full(), optimizer=settings)
    plan = Plan(
        fingerprint="f", start=start, parts=(Part(name="d", folder=data.uri),),
        run=str(tmp_path), kind="labeled", labels=LABELS, phase=phase, precision="fp32", seed=1,
        compute=Compute(workers=0, threads=1),
    )  # fmt: skip
    model = load_model(start.path / "model", "labeled")
    alone = Group(rank=0, world_size=1, device=torch.device("cpu"))
    sizes = _gradients(Trained(model, State(step=9), frozenset(), {}), plan, alone)
    small = {name for name, size in sizes.items() if size <= 1e-5 * max(sizes.values())}
    assert small == {name for name in sizes if name.endswith("key.bias")}
    assert all(parameter.grad is None for parameter in model.parameters())
