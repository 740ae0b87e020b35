"""How fast this machine trains: from what it has trained before, or from a second of matrix products."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import ValidationError

from ftlib.artifacts import below
from ftlib.config import Config
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import StorageError
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import Checkpoint
from ftlib.storage.node_cache import local_path
from ftlib.training.plan import AVERAGE, Plan
from ftlib.workspace import RECORD, Workspace, read_record

EFFICIENCY = 0.5
"""Share of the matmul rate that training reaches where nothing was measured yet."""


class Speed(Config):
    """Useful floating-point operations per second, and where the number is from."""

    flops: float
    source: str


def training_flops(parameters: int, trained: int) -> float:
    """Return the operations per token: forward, the way back through the activations, and the trained weights' share.

    2 per parameter each (Kaplan et al. 2020, arXiv 2001.08361); attention's own products are left out.
    """
    return 4.0 * parameters + 2.0 * trained


def thawing_flops(parameters: int, trained: float) -> float:
    """Return the operations per token where the first layers are frozen: the way back ends where what trains begins."""
    return 2.0 * parameters + 4.0 * trained


def measured_speed(work: Workspace, hidden: int) -> Speed:
    """Return the speed of the last training in this workspace, or of a matmul of the model's width."""
    trained = sorted((work.root / "stages" / "train").glob("*/artifact.json"), key=lambda path: path.stat().st_mtime)
    for record in reversed(trained):
        if (speed := _speed_of(record.parent)) is not None:
            return speed
    rate = matmul_rate(hidden)
    return Speed(flops=EFFICIENCY * rate, source=f"a matmul at {rate / 1e9:.0f} GFLOP/s, {EFFICIENCY:.0%} of it")


def _speed_of(folder: Path) -> Speed | None:
    """Return what a finished training reached; None for a probe, or where its data is gone."""
    try:
        plan = Plan.model_validate_json((folder / "plan.json").read_bytes())
        checkpoint = read_record(folder, Checkpoint)
        records = [local_path(below(part.folder, Path(RECORD))) for part in plan.parts]
        data_of = [read_record(record.parent, PreparedDataset) for record in records]
        parts = [(part.share, data) for part, data in zip(plan.parts, data_of, strict=True)]
    except (OSError, ValidationError, StorageError):
        return None  # another version's: not measured for us
    rows = [(share, data.splits["train"]) for share, data in parts if data is not None]
    if checkpoint is None or len(rows) < len(parts) or not plan.phase.tuning.takes_steps:
        return None
    tokens = sum(share * facts.tokens / facts.rows for share, facts in rows)
    computing, learning = _computing(plan, checkpoint)
    average = checkpoint.facts.get(AVERAGE)
    per_token = training_flops(computing, learning)
    if average is not None:
        per_token = thawing_flops(computing, computing * float(average) / checkpoint.parameters)
    per_row = per_token * tokens
    rate = float(checkpoint.facts["samples_per_second"])
    return Speed(
        flops=rate * per_row, source=f"{rate:.0f} samples/s measured in phase {checkpoint.phase!r} of {folder.name}"
    )


def _computing(plan: Plan, checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the parameters that every token is multiplied with, and those of them that were trained."""
    if KINDS[plan.kind].modality == "text":
        return checkpoint.parameters, checkpoint.trained_parameters
    from ftlib.training.memory.footprint import footprint

    size = footprint(plan.start.folder, plan.kind, len(plan.labels), plan.phase.tuning)
    return size.computing, min(size.trained, size.computing)


def matmul_rate(hidden: int, seconds: float = 1.0) -> float:
    """Measure FLOP/s on products of the size that a layer makes, for about `seconds`."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, w = torch.randn(1024, hidden, device=device), torch.randn(hidden, 4 * hidden, device=device)
    products, started = 0, time.monotonic()
    while (spent := time.monotonic() - started) < seconds:
        total = sum((x @ w)[0, 0] for _ in range(10))
        float(total)  # waits for the GPU
        products += 10
    return products * 2.0 * x.numel() * 4 * hidden / spent
