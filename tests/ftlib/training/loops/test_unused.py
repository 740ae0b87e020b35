"""Parameters that no gradient reaches are found after a model was cut into shards, by all ranks together.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.tensor import DTensor

from ftlib.data.prepared import split_file
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loops.unused import freeze_unused
from ftlib.training.objectives.classification import Classification


def rank(number: int, folder: str) -> None:
    root = Path(folder)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    group = Group.join(2, use_gpu=False)
    torch.manual_seed(0)
    model = load_model(root / "start" / "model", "labeled")
    model.stray = nn.Linear(4, 2)
    placed = group.place(model, Compute(workers=2, sharding="fsdp"), "fp32")
    rows = open_split(split_file(root / "data", "train"), LABELS)
    unused = freeze_unused(placed, Classification(), {}, [rows], "fp32")
    said = {
        "unused": sorted(unused),
        "frozen": sorted(name for name, p in placed.named_parameters() if not p.requires_grad),
        "whole": sorted(name for name, p in placed.named_parameters() if not isinstance(p, DTensor)),
        "gradients": sum(p.grad is not None for p in placed.parameters()),
    }
    (root / f"said{number}").write_text(json.dumps(said))
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


@pytest.mark.slow
def test_what_no_gradient_reaches_is_frozen_on_every_rank_of_a_sharded_model(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "start")
    tiny_prepared(tmp_path / "data", {"train": tiny_rows(12)})
    mp.spawn(rank, (str(tmp_path),), nprocs=2)
    stray = ["stray.bias", "stray.weight"]
    expected = {"unused": stray, "frozen": stray, "whole": [], "gradients": 0}
    assert [json.loads((tmp_path / f"said{number}").read_text()) for number in (0, 1)] == [expected, expected]
