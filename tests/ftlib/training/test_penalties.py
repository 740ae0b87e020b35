"""A penalty in a whole phase, against a plain loop that has it in its loss. On two ranks: test_ranks.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.fisher import FisherJob, fisher
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.fisher.record import Fisher
from ftlib.training.loops.batches import global_batches
from ftlib.training.optimizers.sgd import SGD
from ftlib.training.penalties.base import Start
from ftlib.training.penalties.ewc import EWC
from ftlib.training.penalties.spd import SPD
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

SETTINGS = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8, "weight_decay": 0, "warmup": 0, "clip_norm": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(50)
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": rows[:40], "validation": rows[40:]})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


def job(
    start: Checkpoint,
    data: PreparedDataset,
    penalty: dict[str, object] | None,
    fisher: Fisher | None = None,
    **compute: object,
) -> TrainJob:
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": {"kind": "classification"},
            "tuning": {"kind": "full"},
            "optimizer": {**SETTINGS, "schedule": "constant"},
            "penalty": penalty,
            "dropout": 0.0,
        }
    )
    settled = Compute.model_validate({"workers": 0, "threads": 1, **compute})
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=settled, fisher=fisher)


@pytest.mark.parametrize("fresh_head", [True, False])
def test_l2_sp_is_the_same_as_the_penalty_written_into_the_loss(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, fresh_head: bool
) -> None:
    first = start.model_copy(update={"fresh_head": fresh_head})
    asked = job(first, data, {"kind": "l2_sp", "alpha": 2.0, "beta": 0.5}, micro_batch_size=3)
    done = train(asked, Workspace(tmp_path))
    recorded = [record["penalty"] for record in curves.read(done.path / curves.FILE) if "penalty" in record]

    model = AutoModelForSequenceClassification.from_pretrained(start.path / "model").eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0, foreach=False)
    split, penalties = open_split(data.path / "train.arrow", LABELS), list[float]()
    for rows in global_batches(split.lengths, 8, 7, 0):
        batch = split.batch(rows, Collator.of(model))
        penalty = torch.zeros(())
        for name, p in model.named_parameters():
            head = fresh_head and name.startswith("classifier")
            penalty = penalty + (0.25 * p.square().sum() if head else 1.0 * (p - before[name]).square().sum())
        (model(**batch.inputs, labels=batch.targets).loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        penalties.append(penalty.item())
    assert recorded == pytest.approx(penalties, rel=1e-3, abs=1e-9)
    ours = load_model(done.path / "model", "labeled").state_dict()
    for name, theirs in model.state_dict().items():
        if name.endswith("key.bias"):  # it has no gradient but rounding, which Adam makes as large as any other
            continue
        torch.testing.assert_close(ours[name], theirs, rtol=2e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.fixture(scope="module")
def weighed(start: Checkpoint, data: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Fisher:
    measuring = FisherJob(
        start=start, data=(data,), names=("d",), rows=4, seed=0, compute=Compute(workers=0, threads=1)
    )
    return fisher(measuring, Workspace(tmp_path_factory.mktemp("fisher")))


def test_ewc_is_the_pull_by_hand_and_spd_the_projection_by_numpy(
    start: Checkpoint, data: PreparedDataset, weighed: Fisher
) -> None:
    """EWC's gradient is strength * F * (w - w0), with the loss beside it; SPD's by the paper's Algorithm 1."""
    model = AutoModelForSequenceClassification.from_pretrained(start.folder)
    importance, random = load_file(weighed.file), torch.Generator().manual_seed(0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ewc = EWC(kind="ewc", strength=30.0).start(Start(model, ["classifier"], weighed.file))
    spd = SPD(kind="spd", strength=0.7).start(Start(model, ["classifier"]))
    for p in model.parameters():
        p.data += 0.01 * torch.randn(p.shape, generator=random)
    told = ewc.add_gradient()
    body = {name: p for name, p in model.named_parameters() if not name.startswith("classifier")}
    away = {name: (p - before[name]).detach() for name, p in body.items()}
    assert told == pytest.approx(sum(float((15.0 * importance[n] * a**2).double().sum()) for n, a in away.items()))
    for name, p in model.named_parameters():
        if name in body:
            torch.testing.assert_close(p.grad, 30.0 * importance[name] * away[name], rtol=1e-5, atol=1e-10)
        else:
            assert p.grad is None

    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=random)
    assert spd.add_gradient() == pytest.approx(sum(float(a.double().square().sum()) for a in away.values()) / 2)
    gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}
    for p in model.parameters():
        p.data += 0.01 * torch.randn(p.shape, generator=random)
    proposed = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    spd.after_step()
    projected = 0
    for name, p in model.named_parameters():
        w0, w, new = before[name].numpy(), before[name].numpy(), proposed[name]
        if name in body:
            w = w0 + away[name].numpy()
            condition = -(gradients[name].astype(np.float64) * (w - w0)).sum()
            far, near = np.linalg.norm(new - w0), np.linalg.norm(w - w0)
            if condition < 0:
                new = new - 0.7 * np.clip((far - near) / far, 0, 1) * (new - w0)
                projected += far > near
        np.testing.assert_allclose(p.detach().numpy(), new, rtol=1e-4, atol=1e-7)
    assert 3 < projected < len(body) - 3


def test_spd_moves_offloaded_shards_by_what_is_added_up_on_the_gpu() -> None:
    """On tensors without memory, which mind which device each is on; the meta device stands for the GPU."""
    with FakeTensorMode():
        layer = nn.Linear(4, 3)
        spd = SPD(kind="spd").start(Start(layer, [], over_shards=lambda own: own.to("meta")))
        for p in layer.parameters():
            p.grad = torch.ones_like(p)
        spd.add_gradient()
        spd.after_step()
        assert layer.weight.device.type == "cpu"


def test_ewc_ends_where_the_two_tasks_curvatures_say(tmp_path: Path) -> None:
    """Of a quadratic task 1/2 (w - a)' H (w - a) the minimum is (H + strength F)^-1 (H a + strength F w0)."""
    curvature, target, importance = torch.tensor([[2.0, 0.5], [0.5, 1.0]]), torch.tensor([3.0, -1.0]), [0.5, 4.0]
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[0.3, 0.2]])
    start = model.weight.detach().clone()[0]
    save_file({"weight": torch.tensor([importance])}, tmp_path / "fisher.safetensors")
    pull = EWC(kind="ewc", strength=2.0).start(Start(model, [], tmp_path / "fisher.safetensors"))
    for _ in range(400):
        model.zero_grad()
        away = model.weight[0] - target
        (away @ curvature @ away / 2).backward()
        pull.add_gradient()
        assert model.weight.grad is not None
        model.weight.data -= 0.1 * model.weight.grad
    weighed = 2.0 * torch.diag(torch.tensor(importance))
    expected = torch.linalg.solve(curvature + weighed, curvature @ target + weighed @ start)
    torch.testing.assert_close(model.weight.detach()[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_strength_0_is_plain_training_and_a_greater_one_stays_nearer(
    start: Checkpoint, data: PreparedDataset, weighed: Fisher, tmp_path: Path
) -> None:
    """By plain gradient steps: Adam's, which are of one size, would shake about the start."""
    importance, work = load_file(weighed.file), Workspace(tmp_path)

    def gone(penalty: dict[str, object] | None) -> float:
        asked = job(start, data, penalty, weighed if penalty and penalty["kind"] == "ewc" else None)
        sgd = SGD(kind="sgd", learning_rate=0.02, batch_size=8, epochs=2, warmup=0, schedule="constant", clip_norm=None)
        done = train(asked.model_copy(update={"phase": asked.phase.model_copy(update={"optimizer": sgd})}), work)
        ends[str(penalty)] = done.weights
        before, after = (load_model(one.folder, "labeled").state_dict() for one in (start, done))
        return sum(float((of * (after[name] - before[name]) ** 2).sum()) for name, of in importance.items())

    ends: dict[str, str] = {}
    free = gone(None)
    assert gone({"kind": "ewc", "strength": 0}) == free == gone({"kind": "spd", "strength": 0})
    assert len({*ends.values()}) == 1
    assert gone({"kind": "ewc", "strength": 30.0}) < free / 2 < gone({"kind": "ewc", "strength": 1.0})


def test_ewc_of_another_model_is_refused(data: PreparedDataset, weighed: Fisher, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", (*LABELS, "one more"))
    with pytest.raises(ModelError, match=r"parameter classifier\.weight is 4 x 32, and it has one of 3 x 32 for it"):
        train(job(other, data, {"kind": "ewc"}, weighed), Workspace(tmp_path))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("kind", [pytest.param("l2_sp", marks=SLOW), "ewc", pytest.param("spd", marks=SLOW)])
def test_a_resumed_run_is_pulled_to_where_the_phase_started(
    start: Checkpoint, data: PreparedDataset, weighed: Fisher, tmp_path: Path, kind: str
) -> None:
    asked = job(start, data, {"kind": kind}, weighed if kind == "ewc" else None)
    whole = train(asked, Workspace(tmp_path / "whole"))
    with stopped_at(2):
        train(asked, Workspace(tmp_path / "stopped"))
    resumed = train(asked, Workspace(tmp_path / "stopped"))
    assert (resumed.facts["resumed_from_step"], resumed.weights) == (2, whole.weights)
    assert whole.fingerprint != job(start, data, None).fingerprint
