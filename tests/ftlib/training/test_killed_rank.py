"""One rank of a sharded group is killed in a save: what was whole stays so, and the next attempt goes on from it.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves, worker
from ftlib.training.checkpoints import parts as checkpoint_parts
from ftlib.training.checkpoints.names import saved_step
from ftlib.training.plan import Part, Plan
from ftlib.workspace import Workspace

WORKERS = 2


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A phase in shards that is saved behind every step, where the last save is whole."""
    root = tmp_path_factory.mktemp("killed")
    found = find_model(ModelRef(path=str(tiny_classifier(root / "tiny"))))
    start = base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=1), Workspace(root))
    rows = tiny_rows(76)
    data = tiny_prepared(root / "data", {"train": rows[:60], "validation": rows[60:]})
    phase = {
        "name": "tune",
        "dataset": "d",
        "objective": {"kind": "classification"},
        "tuning": {"kind": "full"},
        "optimizer": {"learning_rate": 3e-3, "epochs": 2, "batch_size": 12},
        "early_stopping": {"patience": 9},
    }
    compute = {"threads": 1, "workers": WORKERS, "sharding": "fsdp", "checkpoint_seconds": 1e-6}
    run = root / "whole"
    values = {"fingerprint": "f", "parts": (Part(name="d", folder=data.uri),), "kind": "labeled", "labels": LABELS}
    made = Plan.model_validate(
        values | {"start": start, "run": str(run), "phase": phase, "precision": "fp32", "seed": 7, "compute": compute}
    )
    together(made)
    return made


def together(plan: Plan, killed_in: str = "") -> None:
    """Train on two ranks, of which the second kills itself in a save."""
    Path(plan.run).mkdir(exist_ok=True)
    worker.begin(plan)
    Path(plan.run, "rendezvous").unlink(missing_ok=True)
    mp.spawn(rank, (plan.model_dump_json(), killed_in), nprocs=WORKERS)


def rank(number: int, plan_json: str, killed_in: str) -> None:
    plan = Plan.model_validate_json(plan_json)
    rendezvous = f"file://{plan.run}/rendezvous"
    dist.init_process_group("gloo", init_method=rendezvous, rank=number, world_size=WORKERS)
    if number == 1 and killed_in == "checkpoint":
        checkpoint_parts.flush = killing_flush  # type: ignore[assignment]
    if number == 1 and killed_in == "model":
        worker.write_model = killed_in_write_model  # type: ignore[assignment]
    worker.work(plan)
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FLUSH = checkpoint_parts.flush
WRITE_MODEL = worker.write_model


BEGUN: list[str] = []


def killing_flush(stream: BinaryIO) -> None:
    """Die in the second checkpoint of a step: when it is begun, the first is whole."""
    if "step-" in stream.name:
        BEGUN.append(stream.name)
    if len(BEGUN) == 2:
        die()
    FLUSH(stream)


def killed_in_write_model(*arguments: Any, **named: Any) -> None:
    pwrite, left = os.pwrite, [3]

    def write(descriptor: int, data: Any, offset: int) -> int:
        left[0] -= 1
        if not left[0]:
            die()
        return pwrite(descriptor, data, offset)

    os.pwrite = write
    WRITE_MODEL(*arguments, **named)


@pytest.mark.slow
@pytest.mark.parametrize("killed_in", ["checkpoint", "model"])
def test_the_checkpoint_before_stands_and_the_next_attempt_ends_with_the_same_weights(
    plan: Plan, tmp_path: Path, killed_in: str
) -> None:
    run = tmp_path / "run"
    again = plan.model_copy(update={"run": str(run)})
    with pytest.raises(mp.ProcessExitedException, match="SIGKILL"):
        together(again, killed_in)
    assert not (run / worker.RESULT).exists()
    stands = saved_step(run)
    steps = cast("int", json.loads((Path(plan.run) / worker.RESULT).read_bytes())["steps"])
    assert 0 < stands < steps
    begun = sorted(folder.name for folder in (run / "checkpoints").glob("step-*"))
    assert (begun[-1] != f"step-{stands:08d}") == (killed_in == "checkpoint")
    together(again)
    facts = worker.outcome(again)
    assert facts["resumed_from_step"] == stands
    assert (facts["steps"], facts["world_size"]) == (steps, WORKERS)
    for file in sorted(Path(plan.run, "model").iterdir()):
        assert (run / "model" / file.name).read_bytes() == file.read_bytes(), file.name
    assert losses(run) == losses(Path(plan.run))


def losses(run: Path) -> list[tuple[Any, Any]]:
    read = curves.read(run / curves.FILE)
    return [(record["step"], record.get("loss", record.get("validation_loss"))) for record in read]
