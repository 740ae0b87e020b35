"""A phase on four ranks, in shards of one model and in shards of two copies, against one process.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
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
from ftlib.training.group import Group
from ftlib.training.plan import Plan
from ftlib.workspace import Workspace
from tests.ftlib.training.ranks import in_ranks, losses, tiny_plan, weights

FULL = {"kind": "full"}
LORA = {"kind": "lora", "rank": 4}
TUNED: dict[str, Any] = {"full": (FULL, "fp32"), "lora": (LORA, "bf16"), "half": (FULL, "bf16")}
SHARDS = {"sharding": "fsdp", "workers": 4}
PLACED: dict[str, dict[str, Any]] = {
    "fsdp": SHARDS,
    "hsdp": {**SHARDS, "replicas": 2},
    "again": {**SHARDS, "replicas": 2, "activation_checkpointing": "selective", "micro_batch_size": 1},
    "ddp": {"workers": 4, "activation_checkpointing": 2},
}


def plan(start: Checkpoint, data: PreparedDataset, run: Path, tuned: str, **compute: object) -> Plan:
    tuning, precision = TUNED[tuned]
    return tiny_plan(start, data, run, {"tuning": tuning, "early_stopping": {"patience": 9}}, precision, **compute)


def stop(sign: Progress) -> None:
    if sign.unit == curves.STEPS and sign.done >= 4:
        raise Interrupted("stopped on request")


def learn(group: Group, root: Path, start: Checkpoint, data: PreparedDataset) -> None:
    for placed, compute in PLACED.items():
        for tuned in TUNED:
            worker.work(plan(start, data, root / f"{placed}-{tuned}", tuned, **compute))
    for kept, resumed in (("hsdp", "fsdp"), ("fsdp", "hsdp"), ("hsdp", "one")):
        run = root / f"{kept}-then-{resumed}"
        with listen(stop):
            worker.work(plan(start, data, run, "full", **PLACED[kept]))
        dist.barrier()
        if group.rank == 0:
            assert json.loads((run / worker.FAILURE).read_text())["kind"] == "Interrupted"
            (run / worker.FAILURE).unlink()
        dist.barrier()
        if resumed in PLACED:  # what is left is resumed by the test's own process
            worker.work(plan(start, data, run, "full", **PLACED[resumed]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    found = find_model(ModelRef(path=str(tiny_classifier(root / "tiny"))))
    start = base(BaseJob(model=found, kind="labeled", labels=LABELS, seed=1), Workspace(root))
    rows = tiny_rows(76)
    data = tiny_prepared(root / "data", {"train": rows[:60], "validation": rows[60:]})
    in_ranks(4, learn, root, root, start, data)
    for tuned in TUNED:
        worker.work(plan(start, data, root / f"one-{tuned}", tuned, workers=0))
    worker.work(plan(start, data, root / "hsdp-then-one", "full", workers=0))
    return root


@pytest.mark.slow
@pytest.mark.parametrize("placed", list(PLACED))
@pytest.mark.parametrize("tuned", list(TUNED))
def test_four_ranks_learn_as_one_process_does(runs: Path, placed: str, tuned: str) -> None:
    """fp32 to the order of sums. bf16 shards round what layers hand on, which autocast hands on in fp32."""
    there, here = losses(runs / f"{placed}-{tuned}"), losses(runs / f"one-{tuned}")
    assert len(there) == len(here) == 12
    np.testing.assert_allclose(there, here, rtol=1e-4 if tuned == "full" else 2e-2)
    facts = json.loads((runs / f"{placed}-{tuned}" / "result.json").read_text())
    assert facts["world_size"] == 4
    saved = weights(runs / f"{placed}-{tuned}")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    head = saved["classifier.weight"]  # masters, and not what an evaluation has gathered in bf16
    assert not torch.equal(head, head.bfloat16().float())


@pytest.mark.slow
@pytest.mark.parametrize("run", ["hsdp-then-fsdp", "fsdp-then-hsdp", "hsdp-then-one"])
def test_a_checkpoint_is_resumed_by_other_shards(runs: Path, run: str) -> None:
    np.testing.assert_allclose(losses(runs / run), losses(runs / "one-full"), rtol=1e-4)
    assert json.loads((runs / run / "result.json").read_text())["resumed_from_step"] >= 4
    for name, tensor in weights(runs / run).items():
        torch.testing.assert_close(tensor, weights(runs / "one-full")[name], rtol=1e-3, atol=2e-4)


@pytest.mark.slow
def test_what_was_frozen_in_bf16_is_saved_as_it_was(runs: Path) -> None:
    """LoRA merges into the start's own weights, not into what it computed with: W0 + B A of the file."""
    adapter = load_file(runs / "hsdp-lora" / "adapter" / "adapter_model.safetensors")
    start = load_file(next((runs / "stages" / "base").glob("*/model/model.safetensors")))
    merged, checked = weights(runs / "hsdp-lora"), 0
    for name, before in start.items():
        a = adapter.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        if a is None:
            assert "classifier" in name or torch.equal(merged[name], before), name
            continue
        b = adapter[f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight"]
        assert b.abs().max() > 0
        torch.testing.assert_close(merged[name], before + 4.0 * (b @ a), rtol=0, atol=1e-6)
        checked += 1
    assert checked >= 8
