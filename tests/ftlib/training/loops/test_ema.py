"""The average of the weights against torch's AveragedModel, and what must not depend on it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import RecipeError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import load_recipe
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_recipe, tiny_rows
from ftlib.training import curves
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.compute import Compute
from ftlib.training.curves import Curves
from ftlib.training.group import Group
from ftlib.training.loops.attempt import Trained
from ftlib.training.loops.ema import Average, averaged
from ftlib.training.loops.heartbeat import Heartbeat
from ftlib.training.loops.loop import Loop
from ftlib.training.objectives.classification import Classification
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import EarlyStopping, Phase
from ftlib.training.plan import Part, Plan
from ftlib.training.tuning.frozen_layers import FrozenLayers
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

FAST = AdamW(learning_rate=3e-3, epochs=2, batch_size=16)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(110)
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": rows[:75], "validation": rows[75:]})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("start")
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    return base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(folder))


def phase(ema_decay: float | None, **fields: object) -> Phase:
    parts = {"objective": Classification(), "tuning": Full(), "optimizer": FAST, "evaluations_per_epoch": 5}
    return Phase.model_validate({"name": "tune", "dataset": "d", **parts, "ema_decay": ema_decay, **fields})


def job(start: Checkpoint, data: PreparedDataset, phase: Phase, **compute: object) -> TrainJob:
    settled = Compute.model_validate({"workers": 0, "threads": 1, **compute})
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=settled)


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.path / "model" / "model.safetensors")


def losses(checkpoint: Checkpoint, kind: str = "loss") -> list[float]:
    return [record[kind] for record in curves.read(checkpoint.path / curves.FILE) if kind in record]


class Recorded:
    """A loop, and a copy of its parameters from after every step, taken by torch's own hook on optimisers."""

    def __init__(self, start: Checkpoint, data: PreparedDataset, phase: Phase, run: Path) -> None:
        run.mkdir()
        asked = job(start, data, phase)
        plan = Plan(
            fingerprint=asked.fingerprint,
            start=start,
            parts=(Part(name="d", folder=data.uri),),
            run=str(run),
            kind="labeled",
            labels=LABELS,
            phase=phase,
            precision="fp32",
            seed=7,
            compute=asked.compute,
        )
        self.steps: list[nn.Module] = []
        with Curves(RunPlace(str(run)), "tune", active=True) as log:
            self.loop = Loop(plan, Group.join(0, use_gpu=False), log)
            self.start = deepcopy(self.loop.model)
            hook = register_optimizer_step_post_hook(lambda *_: self.steps.append(deepcopy(self.loop.model)))
            self.trained: Trained = self.loop.run(Heartbeat(RunPlace(str(run)), 0, 1))
            hook.remove()


@pytest.mark.parametrize(
    "tuning",
    [
        Full(),
        *(pytest.param(one, marks=pytest.mark.slow) for one in (FrozenLayers(layers=1), LoRA(rank=2, dropout=0.1))),
    ],
    ids=["full", "frozen", "lora"],
)
def test_the_phase_ends_with_what_torchs_averaged_model_holds(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, tuning: object
) -> None:
    recorded = Recorded(start, data, phase(0.7, tuning=tuning), tmp_path / "run")
    reference = AveragedModel(recorded.start, multi_avg_fn=get_ema_multi_avg_fn(0.7))
    for model in recorded.steps:
        reference.update_parameters(model)
    assert len(recorded.steps) == 10
    expected = reference.module.state_dict()
    assert expected.keys() == recorded.trained.model.state_dict().keys()
    last = recorded.steps[-1].state_dict()
    trainable = {name for name, p in recorded.start.named_parameters() if p.requires_grad}
    for name, tensor in recorded.trained.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
        assert torch.equal(tensor, last[name]) == (name not in trainable), name


def test_the_weights_that_train_do_not_notice_their_average(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """Ten evaluations with the average in their place: every later loss is that of a run without, bit for bit."""
    plain = train(job(start, data, phase(None)), Workspace(tmp_path))
    done = train(job(start, data, phase(0.9)), Workspace(tmp_path))
    assert done.fingerprint != plain.fingerprint
    assert len(losses(done, "validation_loss")) == 10
    assert losses(done) == losses(plain)
    assert losses(done, "validation_loss")[0] == losses(plain, "validation_loss")[0]  # one step is its own average
    assert set(losses(done, "validation_loss")[1:]).isdisjoint(losses(plain, "validation_loss"))
    assert done.facts["ema_share_of_step_1"] == pytest.approx(0.9**9)
    assert "ema_share_of_step_1" not in plain.facts

    short = train(job(start, data, phase(1e-9)), Workspace(tmp_path))
    np.testing.assert_allclose(losses(short, "validation_loss"), losses(plain, "validation_loss"), rtol=1e-5)
    for name, tensor in weights(short).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-6, atol=1e-8)


def test_the_split_of_a_batch_does_not_change_the_average(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    asked = phase(0.8, dropout=0.0)
    whole = train(job(start, data, asked), Workspace(tmp_path / "whole"))
    split = train(job(start, data, asked, micro_batch_size=3), Workspace(tmp_path / "split"))
    np.testing.assert_allclose(losses(split, "validation_loss"), losses(whole, "validation_loss"), rtol=1e-4)
    for name, tensor in weights(split).items():
        torch.testing.assert_close(tensor, weights(whole)[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "tuning", [Full(), pytest.param(LoRA(rank=2, dropout=0.1), marks=pytest.mark.slow)], ids=["full", "lora"]
)
def test_a_stopped_run_goes_on_with_the_average_it_had(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, tuning: object
) -> None:
    patient = phase(0.9, tuning=tuning, early_stopping=EarlyStopping(patience=9))
    asked = job(start, data, patient)
    whole = train(asked, Workspace(tmp_path / "whole"))

    with stopped_at(6):
        train(asked, Workspace(tmp_path / "stopped"))
    resumed = train(asked, Workspace(tmp_path / "stopped"))
    assert resumed.facts["resumed_from_step"] == 6
    assert resumed.weights == whole.weights
    for kind in ("loss", "validation_loss"):
        assert losses(resumed, kind) == losses(whole, kind)


def test_early_stopping_keeps_the_best_average(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    """A rate that destroys the model: the phase ends with the very weights that were best when they were measured."""
    rate = AdamW(learning_rate=0.05, epochs=8, batch_size=16, schedule="constant", warmup=0)
    stopping = {"optimizer": rate, "early_stopping": EarlyStopping(patience=4)}
    done = train(job(start, data, phase(0.6, **stopping)), Workspace(tmp_path))
    measured = losses(done, "validation_loss")
    assert 4 < len(measured) < 40
    assert measured.index(min(measured)) == len(measured) - 5
    assert done.facts["best_step"] == len(measured) - 4
    assert done.facts["ema_share_of_step_1"] == pytest.approx(0.6 ** (len(measured) - 5))
    split = open_split(data.path / "validation.arrow", LABELS)
    model = load_model(done.path / "model", "labeled")
    with torch.no_grad():
        total = Classification().loss(model, split.batch(range(len(split)), Collator.of(model))).total
    assert float(total) / len(split) == pytest.approx(min(measured), rel=1e-4)


@pytest.mark.slow
def test_of_an_adapter_the_factors_are_averaged(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    """The checkpoint is W0 + scale * mean(B) mean(A), so adapter and merged weights say the same."""
    tuning = LoRA(rank=2, alpha=8)
    recorded = Recorded(start, data, phase(0.7, tuning=tuning), tmp_path / "run")
    done = train(job(start, data, phase(0.7, tuning=tuning)), Workspace(tmp_path / "work"))
    adapter = load_file(done.path / "adapter" / "adapter_model.safetensors")
    place = "bert.encoder.layer.0.attention.self.query"
    factors = {}
    for factor in ("lora_A", "lora_B"):
        name = f"base_model.model.{place}.{factor}"
        series = [dict(model.named_parameters())[f"{name}.default.weight"].detach() for model in recorded.steps]
        mean = series[0].double()
        for step in series[1:]:
            mean = 0.7 * mean + 0.3 * step.double()
        torch.testing.assert_close(adapter[f"{name}.weight"].double(), mean, rtol=1e-5, atol=1e-8)
        factors[factor] = mean
    moved = weights(done)[f"{place}.weight"].double() - weights(start)[f"{place}.weight"].double()
    torch.testing.assert_close(moved, 4 * factors["lora_B"] @ factors["lora_A"], rtol=1e-3, atol=1e-7)


def test_a_probe_has_no_steps_to_average(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    with pytest.raises(RecipeError, match=r"phases\[probe\].ema_decay: .* got 0.9, but 'linear_probe' is solved for"):
        load_recipe(path, ["phases.probe.ema_decay=0.9"])
    assert load_recipe(path, ["phases.tune.ema_decay=0.9"]).phases[1].ema_decay == 0.9
    for wrong in (0, 1, -0.5):
        with pytest.raises(RecipeError, match="ema_decay"):
            load_recipe(path, [f"phases.tune.ema_decay={wrong}"])


def bits(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone().view(torch.int32) for p in model.parameters()]


@settings(max_examples=50)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=6, max_size=6))
def test_swapping_twice_gives_the_same_bits(patterns: list[int]) -> None:
    """Also where no arithmetic would: NaN with its payload, infinities, -0.0, subnormals."""
    model = nn.Linear(2, 2)
    average = Average(model, 0.5)
    with torch.no_grad():
        for parameter, pattern in zip(model.parameters(), (patterns[:4], patterns[4:]), strict=True):
            parameter.view(torch.int32).copy_(torch.tensor(pattern, dtype=torch.int32).view(parameter.shape))
    before, mean = bits(model), {name: tensor.clone() for name, tensor in average.tensors.items()}
    with averaged(average):
        assert all(torch.equal(p, mean[name]) for name, p in model.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(bits(model), before, strict=True))
    assert all(torch.equal(tensor, mean[name]) for name, tensor in average.tensors.items())


class Stop(Exception):
    pass


def test_the_weights_come_back_when_measuring_fails() -> None:
    model = nn.Linear(2, 2)
    average = Average(model, 0.5)
    average.tensors["weight"].zero_()
    before = bits(model)

    def measure() -> None:
        with averaged(average):
            assert not model.weight.any()
            raise Stop

    with pytest.raises(Stop):
        measure()
    assert all(torch.equal(a, b) for a, b in zip(bits(model), before, strict=True))
