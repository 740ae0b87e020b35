"""Several ranks on this machine, as processes of one gloo group, and the plan that they and one process follow."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from ftlib.data.datasets import PreparedDataset
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import LABELS
from ftlib.training import curves, worker
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.plan import Part, Plan


def in_ranks(count: int, work: Callable[..., Any], folder: Path, *args: object) -> list[Any]:
    """Run `work(group, *args)` in `count` ranks; return what each returned, as JSON holds it.

    `work` stands at the top of a module, which every rank imports, and all that it imports: give it a file of its own.
    Raises AssertionError with the traceback of the rank that failed first.
    """
    place = folder / f"ranks-{uuid4().hex}"  # a dead group's meeting would be read again
    place.mkdir(parents=True)
    mp.spawn(_rank, (count, work, str(place), args), nprocs=count)  # type: ignore[no-untyped-call]
    failed = sorted(place.glob("failed-*"), key=lambda path: path.stat().st_mtime_ns)
    assert not failed, failed[0].read_text()
    return [json.loads((place / f"said-{number}").read_text()) for number in range(count)]


def _rank(number: int, count: int, work: Callable[..., Any], place: str, args: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{place}/meeting", rank=number, world_size=count)
    try:
        said = work(Group.join(count, use_gpu=False), *args)
        Path(place, f"said-{number}").write_text(json.dumps(said))
    except BaseException:
        Path(place, f"failed-{number}").write_text(traceback.format_exc())
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


def tiny_plan(
    start: Checkpoint,
    data: PreparedDataset,
    run: Path,
    phase: Mapping[str, object],
    precision: str = "fp32",
    **compute: object,
) -> Plan:
    """Return the plan of a phase of two epochs on tiny labelled rows, with what `phase` says otherwise."""
    run.mkdir(exist_ok=True, parents=True)
    usual: dict[str, object] = {
        "name": "tune",
        "dataset": "d",
        "objective": {"kind": "classification"},
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
            "phase": {**usual, **phase},
            "precision": precision,
            "seed": 7,
            "compute": Compute.model_validate({"threads": 1, **compute}),
        }
    )


def losses(run: Path) -> list[float]:
    """Return the losses of a finished run, those of validation rows among them."""
    failure = run / worker.FAILURE
    assert not failure.exists(), failure.read_text()
    records = curves.read(run / curves.FILE)
    return [record[name] for record in records for name in ("loss", "validation_loss") if name in record]


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of the model that a run wrote."""
    return load_file(run / "model" / "model.safetensors")
