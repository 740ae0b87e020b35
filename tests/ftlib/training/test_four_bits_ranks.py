"""A base in four bits on two ranks, replicated and in shards, against one process.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from ftlib.data.datasets import PreparedDataset
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.quantize import QuantizeJob, quantize
from ftlib.testing import LABELS, tiny_prepared, tiny_rows
from ftlib.testing.checkpoints import tiny_checkpoint
from ftlib.testing.models import tiny_classifier
from ftlib.training import curves, worker
from ftlib.training.compute import Compute
from ftlib.training.plan import Part, Plan
from ftlib.workspace import Workspace

TUNED: dict[str, Any] = {"qlora": {"kind": "qlora", "rank": 2}, "houlsby": {"kind": "houlsby", "width": 4}}
PLACED: dict[str, dict[str, Any]] = {"ddp": {"workers": 2}, "fsdp": {"workers": 2, "sharding": "fsdp"}}


def plan(start: Checkpoint, data: PreparedDataset, run: Path, tuned: str, **compute: object) -> Plan:
    run.mkdir(exist_ok=True, parents=True)
    phase = {
        "name": "tune",
        "dataset": "d",
        "objective": {"kind": "classification"},
        "tuning": TUNED[tuned],
        "optimizer": {"learning_rate": 3e-3, "epochs": 2, "batch_size": 12},
        "dropout": 0.0,
    }
    return Plan.model_validate(
        {
            "fingerprint": "f",
            "start": start,
            "parts": (Part(name="d", folder=data.uri),),
            "run": str(run),
            "kind": "labeled",
            "labels": LABELS,
            "phase": phase,
            "precision": "fp32",
            "seed": 7,
            "compute": Compute.model_validate({"threads": 1, **compute}),
        }
    )


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


def losses(run: Path) -> list[float]:
    if (run / worker.FAILURE).exists():
        raise AssertionError((run / worker.FAILURE).read_text())
    return [record.get("loss", record.get("validation_loss", 0.0)) for record in curves.read(run / curves.FILE)]


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
    mp.spawn(rank, (str(tmp_path), start, data), nprocs=2)
    failed = [path.read_text() for path in tmp_path.glob("failed*")]
    assert not failed, failed[0]
    for tuned in TUNED:
        worker.work(plan(start, data, tmp_path / f"one-{tuned}", tuned, workers=0))
        here = losses(tmp_path / f"one-{tuned}")
        for placed in PLACED:
            np.testing.assert_allclose(losses(tmp_path / f"{placed}-{tuned}"), here, rtol=1e-4)
