"""Parameters that no gradient reaches are found after a model was cut into shards, by all ranks together.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
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
from tests.ftlib.training.ranks import in_ranks


def frozen(group: Group, root: Path) -> dict[str, object]:
    torch.manual_seed(0)
    model = load_model(root / "start" / "model", "labeled")
    model.stray = nn.Linear(4, 2)
    placed = group.place(model, Compute(workers=2, sharding="fsdp"), "fp32")
    rows = open_split(split_file(root / "data", "train"), LABELS)
    unused = freeze_unused(placed, Classification(), {}, [rows], "fp32")
    return {
        "unused": sorted(unused),
        "frozen": sorted(name for name, p in placed.named_parameters() if not p.requires_grad),
        "whole": sorted(name for name, p in placed.named_parameters() if not isinstance(p, DTensor)),
        "gradients": sum(p.grad is not None for p in placed.parameters()),
    }


@pytest.mark.slow
def test_what_no_gradient_reaches_is_frozen_on_every_rank_of_a_sharded_model(tmp_path: Path) -> None:
    tiny_checkpoint(tmp_path / "start")
    tiny_prepared(tmp_path / "data", {"train": tiny_rows(12)})
    stray = ["stray.bias", "stray.weight"]
    expected = {"unused": stray, "frozen": stray, "whole": [], "gradients": 0}
    assert in_ranks(2, frozen, tmp_path, tmp_path) == [expected, expected]
