"""A Fisher information and two penalties where the model is spread: two ranks, replicated or sharded, against one.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file

from ftlib.kinds.loading import load
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.compute import Compute
from ftlib.training.fisher.measuring import measure
from ftlib.training.fisher.record import FILE, FisherPlan
from ftlib.training.group import Group, unwrap
from ftlib.training.penalties.base import Start
from ftlib.training.penalties.ewc import EWC
from ftlib.training.penalties.spd import SPD
from ftlib.training.plan import Part
from tests.ftlib.training.ranks import in_ranks

ALONE = Group(0, 1, torch.device("cpu"))
Sharding = Literal["ddp", "fsdp"]


def measured(start: Checkpoint, data: str, run: Path, group: Group, sharding: Sharding) -> Path:
    """Write F of ten rows to a folder, and return the file."""
    if group.is_first:
        run.mkdir(exist_ok=True)
    group.barrier()
    plan = FisherPlan(
        fingerprint="f",
        run=str(run),
        compute=Compute(workers=2 if group.world_size > 1 else 0, sharding=sharding),
        start=start,
        parts=(Part(name="d", folder=data),),
        rows=10,
        kind="labeled",
        labels=LABELS,
        seed=1,
    )
    measure(plan, group)
    group.barrier()
    return run / FILE


def pulled(start: Checkpoint, fisher: Path, group: Group, sharding: Sharding) -> dict[str, Any]:
    """Return what three steps with each penalty leave: the penalties and a sum over each parameter's squares."""
    said: dict[str, Any] = {}
    for penalty in (EWC(kind="ewc", strength=50.0), SPD(kind="spd", strength=0.8)):
        model = group.spread(load(start, "labeled"), Compute(workers=group.world_size, sharding=sharding))
        pull = penalty.start(Start(unwrap(model), ["classifier"], fisher, partial(group.over_shards, model)))
        optimizer, told = torch.optim.SGD(model.parameters(), lr=0.05), list[float]()
        ids = torch.arange(24).view(2, 12) + 5
        for sign in (1, -1, 1):
            ((sign * model(input_ids=ids).logits[:, 0]).sum()).backward()
            told += group.sum(pull.add_gradient() * group.share_of(model))
            optimizer.step()
            pull.after_step()
            optimizer.zero_grad()
        whole = {n.removeprefix("module."): p for n, p in model.named_parameters()}
        sums = {n: float(getattr(p, "full_tensor", lambda p=p: p)().square().sum()) for n, p in whole.items()}
        said[penalty.kind] = {"told": told, "sums": sums}
    return said


def learnt(group: Group, folder: Path, at: Checkpoint, data: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for sharding in ("ddp", "fsdp"):
        fisher = measured(at, data, folder / sharding, group, sharding)
        said[sharding] = pulled(at, fisher, group, sharding)
    return said


@pytest.mark.slow
def test_two_ranks_measure_and_pull_as_one_does(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start")
    data = tiny_prepared(tmp_path / "data", {"train": tiny_rows(12)}).uri
    said, _ = in_ranks(2, learnt, tmp_path, tmp_path, start, data)
    alone = measured(start, data, tmp_path / "alone", ALONE, "ddp")
    expected = pulled(start, alone, ALONE, "ddp")
    for sharding in ("ddp", "fsdp"):
        ours = load_file(tmp_path / sharding / FILE)
        for name, theirs in load_file(alone).items():
            torch.testing.assert_close(ours[name], theirs, rtol=1e-3, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
        for kind, of in expected.items():
            assert said[sharding][kind]["told"] == pytest.approx(of["told"], rel=1e-3, abs=1e-7)
            assert said[sharding][kind]["sums"] == pytest.approx(of["sums"], rel=1e-4)
