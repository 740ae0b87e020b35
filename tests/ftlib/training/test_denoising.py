"""Training a pipeline: the U-Net alone moves, a stopped run ends in the same bits, a version draws as measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.prepared import SPLITS, split_file
from ftlib.errors import IntegrityError
from ftlib.evaluation.publish_check import drawn_adapter_difference, drawn_difference
from ftlib.fingerprint import digest, file_digest
from ftlib.merging.candidate_weights import write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.methods import Lerp
from ftlib.merging.stock_lora import write_stock_lora
from ftlib.models.checkpoint import Checkpoint, adapter_in
from ftlib.models.folder import find_model
from ftlib.models.pipelines import into_pipeline
from ftlib.models.reference import ModelRef
from ftlib.models.with_diffusers import LORA
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_captioned_split, tiny_pipeline
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

LORA_TUNING = {"kind": "lora", "rank": 2, "alpha": 8.0, "targets": ["to_q", "to_v", "conv1"]}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def started(folder: Path) -> Checkpoint:
    model = find_model(ModelRef(path=str(tiny_pipeline(folder / "own"))))
    return base(BaseJob(model=model, kind="captioned_images", labels=(), seed=1), Workspace(folder / "work"))


def rows(folder: Path) -> PreparedDataset:
    folder.mkdir()
    facts: dict[Any, SplitFacts] = {}
    for i, split in enumerate(SPLITS):
        tiny_captioned_split(split_file(folder, split), count := 16 // (1 + (i > 0)), seed=i)
        facts[split] = SplitFacts(rows=count, tokens=5 * count, supervised=count, truncated=0, longest=6)
    return PreparedDataset(
        uri=str(folder),
        content=digest([file_digest(split_file(folder, split)) for split in SPLITS]),
        kind="captioned_images",
        labels=(),
        splits=facts,
        ledger=Ledger(rows_in=32, kept=32),
        leaked=0,
        tokenizer="tiny",
    )


def job_of(start: Checkpoint, data: PreparedDataset, tuning: dict[str, Any], **compute: Any) -> TrainJob:
    phase = {
        **{"name": "draw", "dataset": "d", "objective": {"kind": "denoising", "caption_dropout": 0.3}},
        **{"tuning": tuning, "optimizer": {"learning_rate": 3e-2, "epochs": 2, "batch_size": 6}, "ema_decay": 0.5},
    }
    where = {"workers": 0, "threads": 1, "checkpoint_seconds": 1e-6, **compute}
    return TrainJob(
        start=start,
        data=data,
        phase=Phase.model_validate(phase),
        precision="fp32",
        seed=7,
        compute=Compute.model_validate(where),
    )


@pytest.mark.slow
def test_a_version_draws_as_it_was_measured_and_so_does_its_adapter(tmp_path: Path) -> None:
    """At half of alpha: the merged pipeline and the folded adapter by stock diffusers, and neither at another alpha."""
    start, data = started(tmp_path), rows(tmp_path / "rows")
    end = train(job_of(start, data, LORA_TUNING), Workspace(tmp_path / "work"))
    before, after = (load_file(one.folder / "model.safetensors") for one in (start, end))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("unet.") for name in moved)
    half, whole = Candidate.between(start, end, 0.5), Candidate.of(end)
    write_candidate(half, folder := tmp_path / "version")
    into_pipeline(folder)
    write_stock_lora(adapter_in(end.path), start.folder, Lerp(alpha=0.5), adapter := tmp_path / "adapter")
    assert [path.name for path in adapter.iterdir()] == [LORA]
    assert drawn_difference(folder, half, data) <= 1e-4
    assert drawn_adapter_difference(adapter, start.folder, half, data) <= 1e-3
    with pytest.raises(IntegrityError, match="the pipeline read back from the registry draws images that differ"):
        drawn_difference(folder, whole, data)
    with pytest.raises(IntegrityError, match="the adapter read back from the registry draws images that differ"):
        drawn_adapter_difference(adapter, start.folder, whole, data)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [LORA_TUNING, {"kind": "full"}], ids=["lora", "full"])
def test_a_stopped_run_ends_in_the_same_bits(tmp_path: Path, tuning: dict[str, Any]) -> None:
    start, data = started(tmp_path), rows(tmp_path / "rows")
    straight = train(job_of(start, data, tuning), Workspace(tmp_path / "straight"))
    with stopped_at(2, late=2):
        train(job_of(start, data, tuning), Workspace(tmp_path / "stopped"))
    resumed = train(job_of(start, data, tuning), Workspace(tmp_path / "stopped"))
    assert resumed.facts["resumed_from_step"] >= 2
    assert resumed.weights == straight.weights
