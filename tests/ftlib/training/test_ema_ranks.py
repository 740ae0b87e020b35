"""The average where the model is spread: two ranks, replicated or in shards, against torch's AveragedModel on one.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ftlib.training.ema import Average, averaged
from ftlib.training.group import Group


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


def rank(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    group, said = Group.join(2, use_gpu=False), {}
    for sharding in ("ddp", "fsdp"):
        torch.manual_seed(0)
        model = group.spread(Layers(), sharding)
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
    Path(folder, f"rank{number}").write_text(json.dumps(said))
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


def test_the_average_of_two_ranks_is_the_average_of_one(tmp_path: Path) -> None:
    """Replicated or in uneven shards, each forward pass computes with the weights that are in place then."""
    mp.spawn(rank, (str(tmp_path),), nprocs=2)
    torch.manual_seed(0)
    model = Layers()
    reference = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    rows, expected = torch.ones(1, 5), []
    for _ in steps(model, batches()):
        reference.update_parameters(model)
        live = model(rows).item()
        expected.append([live, reference(rows).item(), live])
    for number in (0, 1):
        for outputs in json.loads((tmp_path / f"rank{number}").read_text()).values():
            np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-7)
            assert all(after == before for before, _, after in outputs)
