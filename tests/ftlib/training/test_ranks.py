"""Where the model is spread over two ranks, replicated or in shards: its average and a penalty, against torch on one.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ftlib.kinds.batch import LossSum
from ftlib.training.compute import Compute
from ftlib.training.group import Group, accumulating, unwrap
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.ema import Average, averaged
from ftlib.training.objectives.prepared import Context, Prepared
from ftlib.training.penalties.base import Start
from ftlib.training.penalties.l2_sp import L2SP
from tests.ftlib.training.ranks import in_ranks


class Layers(nn.Module):
    """Sizes that two ranks cannot halve, a row that one of them has nothing of, and a frozen layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)])
        self.head = nn.Linear(5, 1)
        self.layers[0].requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


def steps(model: nn.Module, rows: Iterator[torch.Tensor]) -> Iterator[None]:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for batch in rows:
        model(batch).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        yield


def batches() -> Iterator[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return (torch.randn(4, 5, generator=draw) for _ in range(6))


SPREAD = {
    "ddp": Compute(workers=2),
    "fsdp": Compute(workers=2, sharding="fsdp"),
    "hsdp": Compute(workers=2, sharding="fsdp", replicas=2),
    # What a GPU keeps in the host's memory is there already, on the processor; the recipe refuses it.
    "offloaded": Compute(workers=2, sharding="fsdp").model_copy(update={"cpu_offload": True}),
}
PENALTY = L2SP(kind="l2_sp", alpha=0.3, beta=0.7)


def penalised(group: Group, compute: Compute, number: int) -> list[list[float]]:
    """Each rank has two of a batch's four rows; return the penalty and the output after every step."""
    torch.manual_seed(0)
    model = group.spread(Layers(), compute)
    pull = PENALTY.start(Start(unwrap(model), ["head"]))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    said: list[list[float]] = []
    for batch in batches():
        for i, row in enumerate(batch[number::2]):  # two micro-batches
            with accumulating(model, last=i == 1):
                (model(row).square().sum() / 4 * 2).backward()
        (penalty,) = group.sum(pull.add_gradient() * group.share_of(model))
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            said.append([penalty, model(torch.ones(1, 5)).item()])
    return said


class Shares:
    """An objective of both: what a frozen model says of a row, as a share of what it says of the whole batch."""

    kind, companions, counts_known = "shares", ("judge",), False

    def prepare(self, model: nn.Module, batch: Rows, companions: Mapping[str, nn.Module]) -> Prepared:
        said = companions["judge"](batch.x).exp()
        return Prepared({"all": said.sum()}, count=int((batch.x[:, 0] > 0).sum()), kept=said)

    def loss(self, model: nn.Module, batch: Rows, companions: Mapping[str, nn.Module], context: Context) -> LossSum:
        assert torch.equal(companions["judge"](batch.x).exp(), context.kept)
        weights = context.kept / context.sums["all"]
        return LossSum((weights * model(batch.x).square()).sum(), int((batch.x[:, 0] > 0).sum()))


class Split:
    """Five rows, of which each rank has its own."""

    lengths = supervised = np.ones(5, np.int64)
    rows = torch.linspace(-1, 1, 25).reshape(5, 5).sin()

    def batch(self, rows: np.ndarray, collate: object, augment: object = None) -> Rows:
        return Rows(self.rows[rows])

    def terms(self, rows: np.ndarray) -> np.ndarray:
        return self.supervised[rows]


@dataclass
class Rows:
    x: torch.Tensor


def beside(group: Group, compute: Compute, number: int) -> list[list[float]]:
    """Return the loss of each of three steps, and the items it was divided by."""
    torch.manual_seed(0)
    model, judge = group.spread(Layers(), compute), group.spread(Layers().requires_grad_(False), compute)
    asking = Asking(Shares(), model, None, group, companions={"judge": judge}, micro_batch_size=1)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    said: list[list[float]] = []
    for _ in range(3):
        pieces, count = asking.pieces(Split(), np.arange(5))  # type: ignore[arg-type]
        total = torch.zeros(())
        for i, piece in enumerate(pieces):
            with accumulating(model, last=i == len(pieces) - 1):
                loss = asking.loss(Split(), piece).total * float(piece.counts)  # type: ignore[arg-type]
                (loss * group.world_size / count).backward()
            total += loss.detach()
        said.append([*group.sum(total), count])
        optimizer.step()
        optimizer.zero_grad()
    return said


def said_in(group: Group) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for sharding, compute in SPREAD.items():
        torch.manual_seed(0)
        model = group.spread(Layers(), compute)
        average = Average(model, 0.8)
        outputs: list[list[float]] = []
        rows = torch.ones(1, 5)
        for i, _ in enumerate(steps(model, batches())):
            average.update(first=i == 0)
            with torch.no_grad():
                before = model(rows).item()
                with averaged(average):
                    inside = model(rows).item()
                outputs.append([before, inside, model(rows).item()])
        said[sharding] = outputs
        said[f"{sharding} penalised"] = penalised(group, compute, group.rank)
        said[f"{sharding} beside"] = beside(group, compute, group.rank)
    return said


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[list[float]]]]:
    """What each rank said."""
    return in_ranks(2, said_in, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_the_average_of_two_ranks_is_the_average_of_one(two_ranks: list[dict[str, list[list[float]]]]) -> None:
    """Replicated or in uneven shards, each forward pass computes with the weights that are in place then."""
    torch.manual_seed(0)
    model = Layers()
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    rows, expected = torch.ones(1, 5), []
    for _ in steps(model, batches()):
        reference.update_parameters(model)
        live = model(rows).item()
        expected.append([live, reference(rows).item(), live])
    for said in two_ranks:
        for sharding in SPREAD:
            np.testing.assert_allclose(said[sharding], expected, rtol=1e-5, atol=1e-7)
            assert all(after == before for before, _, after in said[sharding])


@pytest.mark.slow
def test_a_penalty_is_the_same_term_of_the_loss_on_two_ranks_as_on_one(
    two_ranks: list[dict[str, list[list[float]]]],
) -> None:
    """A plain loop with L2-SP written into its loss; a fresh head is pulled to 0, a frozen layer is left out."""
    torch.manual_seed(0)
    model = Layers()
    start = [(p.detach().clone(), p) for layer in model.layers[1:] for p in layer.parameters()]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    expected: list[list[float]] = []
    for batch in batches():
        back = sum((p - before).square().sum() for before, p in start)
        penalty = 0.3 / 2 * back + 0.7 / 2 * sum(p.square().sum() for p in model.head.parameters())
        (model(batch).square().mean() + penalty).backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append([penalty.item(), model(torch.ones(1, 5)).item()])
    for said in two_ranks:
        for sharding in SPREAD:
            np.testing.assert_allclose(said[f"{sharding} penalised"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_batch_is_prepared_and_companions_are_asked_alike_on_two_ranks_and_on_one(
    two_ranks: list[dict[str, list[list[float]]]],
) -> None:
    """Against the whole batch at once; one of two ranks has a row less, and repeats one that must not count."""
    torch.manual_seed(0)
    model, judge, x = Layers(), Layers(), Split.rows
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    weights, count = torch.softmax(judge(x).detach(), dim=0), int((x[:, 0] > 0).sum())
    expected: list[list[float]] = []
    for _ in range(3):
        loss = (weights * model(x).square()).sum()
        (loss / count).backward()
        expected.append([loss.item(), count])
        optimizer.step()
        optimizer.zero_grad()
    for said in two_ranks:
        for sharding in SPREAD:
            np.testing.assert_allclose(said[f"{sharding} beside"], expected, rtol=1e-4)
