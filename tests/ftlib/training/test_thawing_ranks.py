"""Gradual unfreezing on two ranks, as replicas and in shards, against one process; stopped at a border and resumed.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import Interrupted
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.progress import Progress, listen
from ftlib.stages.base import BaseJob, base
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves, worker
from ftlib.training.compute import Compute
from ftlib.training.plan import Part, Plan
from ftlib.workspace import Workspace

pytestmark = pytest.mark.slow

PLACED: dict[str, dict[str, Any]] = {
    "ddp": {"workers": 2, "micro_batch_size": 3},
    "fsdp": {"workers": 2, "sharding": "fsdp"},
}
EPOCH = 5
STOPS = (EPOCH, EPOCH + 1)


def plan(start: Checkpoint, data: PreparedDataset, run: Path, **compute: object) -> Plan:
    run.mkdir(exist_ok=True, parents=True)
    phase = {
        "name": "tune",
        "dataset": "d",
        "objective": {"kind": "classification"},
        "tuning": {"kind": "gradual_unfreezing"},
        "optimizer": {"learning_rate": 3e-3, "epochs": 4, "batch_size": 12},
        "early_stopping": {"patience": 30},
        "ema_decay": 0.8,
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
            worker.work(plan(start, data, root / placed, **compute))
            for at in STOPS:
                run = root / f"{placed}-{at}"

                def stop(sign: Progress, at: int = at) -> None:
                    if sign.unit == curves.STEPS and sign.done >= at - 1:
                        raise Interrupted("stopped on request")

                with listen(stop):
                    worker.work(plan(start, data, run, **compute))
                dist.barrier()
                if number == 0:
                    (run / worker.FAILURE).unlink()
                dist.barrier()
                worker.work(plan(start, data, run, **compute))
    except BaseException:
        (root / f"failed{number}").write_text(traceback.format_exc())
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("thawing")
    found = find_model(ModelRef(path=str(tiny_classifier(root / "tiny"))))
    start = base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=1), Workspace(root))
    rows = tiny_rows(76)
    data = tiny_prepared(root / "data", {"train": rows[:60], "validation": rows[60:]})
    mp.spawn(rank, (str(root), start, data), nprocs=2)
    failed = [path.read_text() for path in root.glob("failed*")]
    assert not failed, failed[0]
    worker.work(plan(start, data, root / "one", workers=0))
    return root


def losses(run: Path) -> list[float]:
    return [record.get("loss", record.get("validation_loss")) for record in curves.read(run / curves.FILE)]  # type: ignore[misc]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.mark.parametrize("placed", PLACED)
def test_two_ranks_train_what_one_process_trains(runs: Path, placed: str) -> None:
    assert len(losses(runs / placed)) == 4 * EPOCH + 4
    np.testing.assert_allclose(losses(runs / placed), losses(runs / "one"), rtol=1e-4)
    for name, tensor in weights(runs / "one").items():
        torch.testing.assert_close(weights(runs / placed)[name], tensor, rtol=1e-2, atol=2e-4)


@pytest.mark.parametrize("placed", PLACED)
def test_stopped_around_a_border_ranks_go_on_to_the_bit(runs: Path, placed: str) -> None:
    for at in STOPS:
        step = worker.json.loads((runs / f"{placed}-{at}" / worker.RESULT).read_text())["resumed_from_step"]
        assert at <= step <= at + 1
        assert losses(runs / f"{placed}-{at}") == losses(runs / placed)
        for name, tensor in weights(runs / placed).items():
            assert torch.equal(weights(runs / f"{placed}-{at}")[name], tensor), name
