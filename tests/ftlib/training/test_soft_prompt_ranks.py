"""Prompts and factors that several ranks learn: as one process does, with replicas and with shards."""

import json
import os
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from ftlib.data.datasets import PreparedDataset
from ftlib.models.adapter import WEIGHTS
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training import worker
from ftlib.training.compute import Compute
from ftlib.training.plan import Plan
from tests.ftlib.training import test_shards_ranks
from tests.ftlib.training.test_shards_ranks import losses

TUNED: dict[str, Any] = {
    "prompt": {"kind": "prompt_tuning", "virtual_tokens": 3},
    "prefix": {"kind": "prefix_tuning", "virtual_tokens": 3},
    "p": {"kind": "p_tuning", "virtual_tokens": 3, "hidden": 16},
    "ia3": {"kind": "ia3", "keep": "adapter"},
}
PLACED: dict[str, dict[str, Any]] = {"ddp": {"workers": 2}, "fsdp": {"workers": 2, "sharding": "fsdp"}}


def plan(start: Checkpoint, data: PreparedDataset, run: Path, tuned: str, **compute: object) -> Plan:
    made = test_shards_ranks.plan(start, data, run, "full", **compute)
    phase = type(made.phase).model_validate({**made.phase.model_dump(), "tuning": TUNED[tuned]})
    return made.model_copy(update={"phase": phase, "compute": Compute.model_validate({"threads": 1, **compute})})


def rank(number: int, folder: str, start: Checkpoint, data: PreparedDataset) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    root = Path(folder)
    try:
        for placed, compute in PLACED.items():
            for tuned in TUNED:
                worker.work(plan(start, data, root / f"{placed}-{tuned}", tuned, **compute))
    except BaseException:
        (root / f"failed{number}").write_text(traceback.format_exc())
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


@pytest.mark.slow
def test_two_ranks_learn_a_prompt_as_one_process_does(tmp_path: Path):
    start = tiny_checkpoint(tmp_path / "start")
    rows = tiny_rows(76)
    data = tiny_prepared(tmp_path / "data", {"train": rows[:60], "validation": rows[60:]})
    mp.spawn(rank, (str(tmp_path), start, data), nprocs=2)
    failed = [path.read_text() for path in tmp_path.glob("failed*")]
    assert not failed, failed[0]
    for tuned in TUNED:
        worker.work(plan(start, data, tmp_path / f"one-{tuned}", tuned, workers=0))
        here, alone = losses(tmp_path / f"one-{tuned}"), load_file(tmp_path / f"one-{tuned}" / "model" / WEIGHTS)
        for placed in PLACED:
            run = tmp_path / f"{placed}-{tuned}"
            assert not (run / worker.FAILURE).exists(), (run / worker.FAILURE).read_text()
            np.testing.assert_allclose(losses(run), here, rtol=1e-4)
            assert json.loads((run / worker.RESULT).read_text())["world_size"] == 2
            saved = load_file(run / "model" / WEIGHTS)
            assert saved.keys() == alone.keys()
            for name, tensor in saved.items():
                np.testing.assert_allclose(tensor, alone[name], rtol=1e-3, atol=2e-4)
