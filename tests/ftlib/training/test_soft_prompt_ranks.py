"""Prompts and factors that several ranks learn: as one process does, with replicas and with shards."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from ftlib.data.datasets import PreparedDataset
from ftlib.models.adapter import WEIGHTS
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training import worker
from ftlib.training.group import Group
from tests.ftlib.training.ranks import in_ranks, losses, tiny_plan

TUNED: dict[str, Any] = {
    "prompt": {"kind": "prompt_tuning", "virtual_tokens": 3},
    "prefix": {"kind": "prefix_tuning", "virtual_tokens": 3},
    "p": {"kind": "p_tuning", "virtual_tokens": 3, "hidden": 16},
    "ia3": {"kind": "ia3", "keep": "adapter"},
}
PLACED: dict[str, dict[str, Any]] = {"ddp": {"workers": 2}, "fsdp": {"workers": 2, "sharding": "fsdp"}}


def learn(_: Group, root: Path, start: Checkpoint, data: PreparedDataset) -> None:
    for placed, compute in PLACED.items():
        for name, tuning in TUNED.items():
            worker.work(tiny_plan(start, data, root / f"{placed}-{name}", {"tuning": tuning}, **compute))


@pytest.mark.slow
def test_two_ranks_learn_a_prompt_as_one_process_does(tmp_path: Path):
    start = tiny_checkpoint(tmp_path / "start")
    rows = tiny_rows(76)
    data = tiny_prepared(tmp_path / "data", {"train": rows[:60], "validation": rows[60:]})
    in_ranks(2, learn, tmp_path, tmp_path, start, data)
    for tuned, tuning in TUNED.items():
        worker.work(tiny_plan(start, data, tmp_path / f"one-{tuned}", {"tuning": tuning}, workers=0))
        here, alone = losses(tmp_path / f"one-{tuned}"), load_file(tmp_path / f"one-{tuned}" / "model" / WEIGHTS)
        for placed in PLACED:
            run = tmp_path / f"{placed}-{tuned}"
            np.testing.assert_allclose(losses(run), here, rtol=1e-4)
            assert json.loads((run / worker.RESULT).read_text())["world_size"] == 2
            saved = load_file(run / "model" / WEIGHTS)
            assert saved.keys() == alone.keys()
            for name, tensor in saved.items():
                np.testing.assert_allclose(tensor, alone[name], rtol=1e-3, atol=2e-4)
