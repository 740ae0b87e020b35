"""Gradual unfreezing on two ranks, as replicas and in shards, against one process; stopped at a border and resumed.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import Interrupted
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.progress import Progress, listen
from ftlib.stages.base import BaseJob, base
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves, worker
from ftlib.training.group import Group
from ftlib.workspace import Workspace
from tests.ftlib.training.ranks import in_ranks, losses, tiny_plan, weights

pytestmark = pytest.mark.slow

PLACED: dict[str, dict[str, Any]] = {
    "ddp": {"workers": 2, "micro_batch_size": 3},
    "fsdp": {"workers": 2, "sharding": "fsdp"},
}
EPOCH = 5
STOPS = (EPOCH, EPOCH + 1)
PHASE = {
    "tuning": {"kind": "gradual_unfreezing"},
    "optimizer": {"learning_rate": 3e-3, "epochs": 4, "batch_size": 12},
    "early_stopping": {"patience": 30},
    "ema_decay": 0.8,
}


def learn(group: Group, root: Path, start: Checkpoint, data: PreparedDataset) -> None:
    for placed, compute in PLACED.items():
        worker.work(tiny_plan(start, data, root / placed, PHASE, **compute))
        for at in STOPS:
            run = root / f"{placed}-{at}"

            def stop(sign: Progress, at: int = at) -> None:
                if sign.unit == curves.STEPS and sign.done >= at - 1:
                    raise Interrupted("stopped on request")

            with listen(stop):
                worker.work(tiny_plan(start, data, run, PHASE, **compute))
            dist.barrier()
            if group.rank == 0:
                (run / worker.FAILURE).unlink()
            dist.barrier()
            worker.work(tiny_plan(start, data, run, PHASE, **compute))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("thawing")
    found = find_model(ModelRef(path=str(tiny_classifier(root / "tiny"))))
    start = base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=1), Workspace(root))
    rows = tiny_rows(76)
    data = tiny_prepared(root / "data", {"train": rows[:60], "validation": rows[60:]})
    in_ranks(2, learn, root, root, start, data)
    worker.work(tiny_plan(start, data, root / "one", PHASE, workers=0))
    return root


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
