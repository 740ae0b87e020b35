"""A base in four bits on two ranks, replicated and in shards, against one process.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftlib.data.datasets import PreparedDataset
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.quantize import QuantizeJob, quantize
from ftlib.testing import tiny_prepared, tiny_rows
from ftlib.testing.checkpoints import tiny_checkpoint
from ftlib.testing.models import tiny_classifier
from ftlib.training import worker
from ftlib.training.group import Group
from ftlib.workspace import Workspace
from tests.ftlib.training.ranks import in_ranks, losses, tiny_plan

TUNED: dict[str, Any] = {"qlora": {"kind": "qlora", "rank": 2}, "houlsby": {"kind": "houlsby", "width": 4}}
PLACED: dict[str, dict[str, Any]] = {"ddp": {"workers": 2}, "fsdp": {"workers": 2, "sharding": "fsdp"}}


def learn(_: Group, root: Path, start: Checkpoint, data: PreparedDataset) -> None:
    for placed, compute in PLACED.items():
        for name, tuning in TUNED.items():
            worker.work(tiny_plan(start, data, root / f"{placed}-{name}", {"tuning": tuning}, **compute))


@pytest.mark.slow
def test_two_ranks_learn_as_one_process_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wide(folder: Path, labels: Any = None, *, seed: int = 0) -> Path:
        return tiny_classifier(folder, labels, seed=seed, hidden=64)

    monkeypatch.setattr("ftlib.testing.checkpoints.tiny_classifier", wide)
    plain = tiny_checkpoint(tmp_path / "start")
    job = QuantizeJob(start=plain, kind="labeled", quantization="nf4_double")
    start = quantize(job, Workspace(tmp_path))
    rows = tiny_rows(76)
    data = tiny_prepared(tmp_path / "data", {"train": rows[:60], "validation": rows[60:]})
    in_ranks(2, learn, tmp_path, tmp_path, start, data)
    for tuned, tuning in TUNED.items():
        worker.work(tiny_plan(start, data, tmp_path / f"one-{tuned}", {"tuning": tuning}, workers=0))
        here = losses(tmp_path / f"one-{tuned}")
        for placed in PLACED:
            np.testing.assert_allclose(losses(tmp_path / f"{placed}-{tuned}"), here, rtol=1e-4)
