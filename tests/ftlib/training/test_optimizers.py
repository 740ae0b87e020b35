"""Every optimiser beside a second implementation: numpy by the paper's formula, transformers, or plain torch."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from transformers.optimization import Adafactor as TransformersAdafactor

from ftlib.errors import RecipeError
from ftlib.fingerprint import identify
from ftlib.training.optimizer import build_optimizer, set_rate
from ftlib.training.optimizers import Optimizer
from ftlib.training.optimizers.adafactor import Adafactor
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.optimizers.adamw_8bit import AdamW8bit
from ftlib.training.optimizers.apollo import APOLLO
from ftlib.training.optimizers.base import OptimizerBase
from ftlib.training.optimizers.galore import GaLore
from ftlib.training.optimizers.muon import Muon
from ftlib.training.optimizers.sgd import SGD

ALL: list[OptimizerBase] = [
    AdamW(),
    SGD(),
    SGD(momentum=0.0),
    Adafactor(),
    Muon(),
    AdamW8bit(),
    GaLore(rank=3, refresh=2),
    APOLLO(rank=3, refresh=2),
    APOLLO(rank=1, per="tensor", refresh=2),
]


class Net(nn.Module):
    """An embedding, a wide and a tall matrix of layers with biases, a norm, and a head, called as in transformers."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.Embedding(5, width)
        self.layer = nn.ModuleList([nn.Linear(width, 2 * width), nn.Linear(2 * width, width)])
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 2)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = self.embeddings(ids)
        for layer in self.layer:
            hidden = torch.tanh(layer(hidden))
        return self.classifier(self.norm(hidden))


def make(settings: OptimizerBase, net: nn.Module) -> torch.optim.Optimizer:
    optimizer = build_optimizer(net, settings, 1.0, ["classifier"], seed=7)
    set_rate(optimizer, settings.learning_rate)
    return optimizer


def step(net: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Do a step on rows that are a function of its number."""
    random = torch.Generator().manual_seed(number)
    ids = torch.randint(0, 5, (16,), generator=random)
    nn.functional.cross_entropy(net(ids), ids % 2).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def name(settings: OptimizerBase) -> str:
    return f"{getattr(settings, 'kind', '')}-{getattr(settings, 'per', getattr(settings, 'momentum', ''))}"


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_steps_resume_to_the_same_bits(settings: OptimizerBase) -> None:
    """What a checkpoint holds is all there is: weights and state, by name, into a new optimiser of a new model."""
    whole, halved = Net(64), Net(64)
    optimizer = make(settings, whole)
    for number in range(5):
        step(whole, optimizer, number)
    optimizer = make(settings, halved)
    for number in range(3):
        step(halved, optimizer, number)
    weights, state = get_state_dict(halved, optimizer)
    kept = copy.deepcopy((weights, state))
    assert all(
        isinstance(v, torch.Tensor | int | float) for s in cast("Any", state)["state"].values() for v in s.values()
    )
    resumed = Net(64)
    optimizer = make(settings, resumed)
    set_state_dict(resumed, optimizer, model_state_dict=kept[0], optim_state_dict=kept[1])
    set_rate(optimizer, settings.learning_rate)
    for number in range(3, 5):
        step(resumed, optimizer, number)
    for (parameter, theirs), ours in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(theirs, ours), parameter


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_layers_learn_at_their_share_of_the_rate(settings: OptimizerBase) -> None:
    """A first step without weight decay is as long as its rate: by how much less it moves a layer is the layer's."""
    moved: list[dict[str, torch.Tensor]] = []
    for decay in (1.0, 0.5):
        net, before = nn.Sequential(Net(16)), Net(16)
        undecayed = settings.model_copy(update={"weight_decay": 0.0})
        optimizer = build_optimizer(net, undecayed, decay, ["0.classifier"], seed=7)
        set_rate(optimizer, 0.01)
        step(net, optimizer, 0)
        parameters = zip(net.named_parameters(), before.parameters(), strict=True)
        moved.append({name.removeprefix("0."): (now - then).detach() for (name, now), then in parameters})
    shares = {"embeddings": 0.125, "layer.0": 0.25, "layer.1": 0.5, "norm": 0.5, "classifier": 1.0}
    for name, whole in moved[0].items():
        (share,) = (share for begins, share in shares.items() if name.startswith(begins))
        assert whole.abs().max() > 1e-6, name
        torch.testing.assert_close(moved[1][name], share * whole, rtol=1e-2, atol=1e-7, msg=name)


@pytest.mark.parametrize("settings", ALL, ids=name)
def test_it_learns_and_keeps_as_much_as_it_says(settings: OptimizerBase) -> None:
    """The loss falls; and the state's bytes are those that the prediction of memory counts, to 1 %."""
    net = Net(96)
    settings = settings.model_copy(update={"learning_rate": 0.1 if settings.kind == "sgd" else 0.01})  # type: ignore[attr-defined]
    optimizer = make(settings, net)
    ids = torch.arange(5)
    before = float(nn.functional.cross_entropy(net(ids).detach(), ids % 2))
    for number in range(30):
        step(net, optimizer, number)
    assert float(nn.functional.cross_entropy(net(ids).detach(), ids % 2)) < before / 2
    hidden = {*net.layer.parameters()}
    said = sum(settings.state_bytes(p.shape, hidden=p.ndim == 2 and p in hidden) for p in net.parameters())
    shared = {id(v) for s in optimizer.state.values() for k, v in s.items() if k.startswith("qmap")}
    tensors = [v for s in optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor)]
    held = sum(t.numel() * t.element_size() for t in tensors if id(t) not in shared)
    assert held == pytest.approx(said, rel=0.01, abs=64)


def one_matrix(settings: OptimizerBase, shape: tuple[int, int], steps: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Step one hidden matrix by given gradients; return where it ends (from 0.1 everywhere) and the gradients."""
    net = nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(shape[1], shape[0], bias=False)])})
    (matrix,) = net.parameters()
    matrix.data.fill_(0.1)
    optimizer = make(settings, net)
    random = np.random.default_rng(3)
    gradients = [random.standard_normal(shape).astype(np.float32) * (i + 1) for i in range(steps)]
    for gradient in gradients:
        matrix.grad = torch.from_numpy(gradient.copy())
        optimizer.step()
    return matrix.detach().numpy().astype(np.float64), gradients


SHAPES = [(4, 7), (7, 4), (5, 5)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_galore_equals_the_papers_formula(shape: tuple[int, int]) -> None:
    rank, refresh, rate, scale = 2, 3, 0.01, 0.25
    settings = GaLore(rank=rank, refresh=refresh, scale=scale, learning_rate=rate, weight_decay=0.1)
    found, gradients = one_matrix(settings, shape, 7)
    weights, wide = np.full(shape, 0.1), shape[0] < shape[1]
    first = second = np.zeros((rank, max(shape)))
    projection = np.zeros(0)
    for t, gradient in enumerate(gradients):
        upright = (gradient if wide else gradient.T).astype(np.float64)
        if t % refresh == 0:
            projection = np.linalg.svd(upright)[0][:, :rank]
        low = projection.T @ upright
        first, second = 0.9 * first + 0.1 * low, 0.999 * second + 0.001 * low**2
        adam = (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
        back = scale * projection @ adam
        weights = weights * (1 - rate * 0.1) - rate * (back if wide else back.T)
    assert found == pytest.approx(weights, abs=2e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_apollo_equals_the_papers_formula(shape: tuple[int, int], per: Any) -> None:
    rank, refresh, rate = (3 if per == "channel" else 1), 3, 0.01
    settings = APOLLO(rank=rank, refresh=refresh, per=per, learning_rate=rate, weight_decay=0.0)
    found, gradients = one_matrix(settings, shape, 7)
    weights, wide = np.full(shape, 0.1), shape[0] < shape[1]
    scale = 1.0 if per == "channel" else math.sqrt(128)
    first = second = np.zeros((rank, max(shape)))
    projection, last = np.zeros(0), None
    for t, gradient in enumerate(gradients):
        upright = (gradient if wide else gradient.T).astype(np.float64)
        if t % refresh == 0:
            drawn = np.random.default_rng([7, 0, t // refresh]).standard_normal((rank, min(shape)), np.float32)
            projection = drawn / math.sqrt(rank)
        low = projection @ upright
        first, second = 0.9 * first + 0.1 * low, 0.999 * second + 0.001 * low**2
        adam = (first / (1 - 0.9 ** (t + 1))) / (np.sqrt(second / (1 - 0.999 ** (t + 1))) + 1e-8)
        axis = 0 if per == "channel" else None
        scaled = upright * (np.linalg.norm(adam, axis=axis) / np.linalg.norm(low, axis=axis))
        norm = float(np.linalg.norm(scaled))
        if last is not None and norm > 1.01 * last:
            scaled, norm = scaled * (1.01 * last / norm), 1.01 * last
        last = norm
        weights = weights - rate * scale * (scaled if wide else scaled.T)
    assert found == pytest.approx(weights, rel=1e-3, abs=2e-5)


def test_galore_of_full_rank_that_never_refreshes_is_adam_in_a_turned_basis() -> None:
    """P is square and orthogonal, so a diagonal gradient, whose singular vectors are the axes, gives Adam itself."""
    net = nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(4, 4, bias=False)])})
    twin = copy.deepcopy(net)
    optimizer = make(GaLore(rank=4, refresh=1000, scale=1.0, learning_rate=0.01), net)
    plain = make(AdamW(learning_rate=0.01), twin)
    for i in range(5):
        for model, steps in ((net, optimizer), (twin, plain)):
            (matrix,) = model.parameters()
            matrix.grad = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0]) * (i + 1))
            steps.step()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_muon_steps_are_nearly_orthogonal_and_as_large_as_adams() -> None:
    """By SVD: U V' of the first gradient, whose singular values Newton-Schulz brings into 0.7 to 1.2."""
    found, (gradient,) = one_matrix(Muon(learning_rate=0.01, weight_decay=0.0), (6, 9), 1)
    u, _, v = np.linalg.svd(gradient, full_matrices=False)
    moved = (0.1 - found) / (0.01 * 0.2 * math.sqrt(9))
    inside = u.T @ moved @ v.T
    assert np.diag(inside) == pytest.approx(np.ones(6), abs=0.35)
    assert inside - np.diag(np.diag(inside)) == pytest.approx(np.zeros((6, 6)), abs=0.02)


def test_no_step_of_adamw_is_larger_than_its_bound_and_growing_gradients_reach_it() -> None:
    settings = AdamW(learning_rate=1.0, beta2=0.99)
    net = nn.ParameterDict({"bias": nn.Parameter(torch.zeros(1, dtype=torch.float64))})
    optimizer, vector, steps = make(settings, net), net["bias"], list[float]()
    for gradient in [0.0] * 900 + [(0.99 / 0.9) ** i for i in range(100)]:
        before = vector.item()
        vector.grad = torch.full_like(vector, gradient)
        optimizer.step()
        steps.append(abs(vector.item() - before))
    assert 0.99 * settings.largest_step < max(steps) <= settings.largest_step
    assert AdamW().largest_step == pytest.approx(7.27, abs=0.01)
    assert AdamW(beta2=0.5).largest_step == SGD().largest_step == math.inf


def test_muon_leaves_embeddings_head_and_vectors_to_adamw() -> None:
    net, twin = Net(), Net()
    muon, adamw = make(Muon(learning_rate=1e-3), net), make(AdamW(learning_rate=1e-3), twin)
    step(net, muon, 0)
    step(twin, adamw, 0)
    same = {n for (n, a), b in zip(net.named_parameters(), twin.parameters(), strict=True) if torch.equal(a, b)}
    assert same == {n for n, _ in net.named_parameters()} - {"layer.0.weight", "layer.1.weight"}


def test_adafactor_equals_transformers() -> None:
    """While the rate is below 1 / sqrt(step), torch's relative step is transformers' with scale_parameter."""
    net, twin = Net(), Net()
    ours = make(Adafactor(learning_rate=1e-3, weight_decay=0.0), net)
    theirs = TransformersAdafactor(
        twin.parameters(), lr=1e-3, scale_parameter=True, relative_step=False, warmup_init=False, eps=(1e-30, 1e-3)
    )
    for number in range(5):
        step(net, ours, number)
        step(twin, cast("Any", theirs), number)
    for (n, a), b in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5), n


def test_sgd_equals_a_plain_loop() -> None:
    found, gradients = one_matrix(SGD(learning_rate=0.01, momentum=0.9, weight_decay=0.1), (3, 4), 4)
    weights, velocity = np.full((3, 4), 0.1), np.zeros((3, 4))
    for t, gradient in enumerate(gradients):
        pulled = gradient + 0.1 * weights
        velocity = pulled if t == 0 else 0.9 * velocity + pulled
        weights = weights - 0.01 * velocity
    assert found == pytest.approx(weights, abs=1e-5)


def test_moments_of_8_bits_stay_near_those_of_32() -> None:
    net, twin = Net(96), Net(96)
    eight, full = make(AdamW8bit(learning_rate=1e-3), net), make(AdamW(learning_rate=1e-3), twin)
    for number in range(10):
        step(net, eight, number)
        step(twin, full, number)
    start = Net(96)
    states = eight.state_dict()["state"].values()
    assert {v.dtype for s in states for k, v in s.items() if k in ("state1", "state2")} == {torch.uint8}
    for (n, a), b, s in zip(net.named_parameters(), twin.parameters(), start.parameters(), strict=True):
        assert float((a - b).detach().norm()) < 0.1 * float((b - s).detach().norm()), n


def test_a_model_whose_layers_do_not_train_is_refused() -> None:
    net = Net()
    net.layer.requires_grad_(False)
    with pytest.raises(RecipeError, match="'muon' is made for the matrices of the body's layers, and none of them"):
        make(Muon(), net)


def test_8_bits_without_the_library_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(RecipeError, match=r"pip install 'reglage\[bitsandbytes\]', or use adamw"):
        make(AdamW8bit(), Net())


def test_a_recipe_that_names_none_means_adamw_and_is_the_job_that_it_was() -> None:
    union: TypeAdapter[OptimizerBase] = TypeAdapter(Optimizer)
    bare = union.validate_python({"learning_rate": 1e-4})
    assert bare == AdamW(learning_rate=1e-4)
    assert set(cast("dict[str, Any]", identify(bare))) == {
        *("learning_rate", "epochs", "batch_size", "weight_decay", "beta1", "beta2", "epsilon", "clip_norm"),
        *("schedule", "warmup", "plateau_factor", "plateau_patience"),
    }
    assert "kind" in cast("dict[str, Any]", identify(union.validate_python({"kind": "sgd"})))
