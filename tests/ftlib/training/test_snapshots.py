"""Snapshots of a phase: what a shorter training ends with, kept through an interruption, and ends of a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.loading import load
from ftlib.merging.adapter_sweep import walks_by_scaling
from ftlib.merging.candidate_weights import check_candidate, write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training.compute import Compute
from ftlib.training.objectives.classification import Classification
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase, Snapshots
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

STEPS_PER_EPOCH = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snapshots")
    rows = tiny_rows(80)
    tiny_prepared(folder / "data", {"train": rows[:64], "validation": rows[64:]})
    tiny_classifier(folder / "tiny")
    return folder


def job(root: Path, epochs: float, tuning: dict[str, Any], **fields: Any) -> TrainJob:
    """Return a training whose rate never changes, so that a shorter one is its beginning."""
    rows = tiny_rows(80)
    data = tiny_prepared(root / "data", {"train": rows[:64], "validation": rows[64:]})
    model = find_model(ModelRef(path=str(root / "tiny")))
    start = base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(root))
    settings = AdamW(
        learning_rate=3e-3, epochs=epochs, batch_size=16, schedule="plateau", plateau_patience=99, warmup=0
    )
    named = {"name": "tune", "dataset": "d", "objective": Classification(), "tuning": tuning, "optimizer": settings}
    compute = Compute(workers=0, threads=1, checkpoint_seconds=1e-6)
    phase = Phase.model_validate({**named, **fields})
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=3, compute=compute)


@pytest.mark.parametrize(
    ("tuning", "fields"),
    [
        pytest.param({"kind": "full"}, {"ema_decay": 0.5}, marks=pytest.mark.slow),
        ({"kind": "lora", "rank": 2}, {}),
        pytest.param({"kind": "lora", "rank": 2, "keep": "adapter"}, {}, marks=pytest.mark.slow),
    ],
    ids=["full, averaged", "lora", "kept adapter"],
)
def test_a_snapshot_is_where_a_shorter_training_ends(
    root: Path, tmp_path: Path, tuning: dict[str, Any], fields: dict[str, Any]
) -> None:
    short = train(job(root, 1, tuning, **fields), Workspace(tmp_path))
    bare = train(job(root, 2, tuning, **fields), Workspace(tmp_path))
    keeping = job(root, 2, tuning, **fields, snapshots={"steps": [6], "epochs": [1]})
    with stopped_at(5, late=1):  # behind the first snapshot, before the second
        train(keeping, Workspace(tmp_path))
    end = train(keeping, Workspace(tmp_path))
    assert end.weights == bare.weights  # who watches changes nothing
    assert [(one.name, one.step) for one in end.snapshots] == [("epoch-1", STEPS_PER_EPOCH), ("step-6", 6)]
    early = end.at("epoch-1")
    assert early.weights == short.weights
    assert {one.weights for one in end.snapshots}.isdisjoint({end.weights, keeping.start.weights})
    half = Candidate.between(early, end, 0.5)
    check_candidate(half)
    assert not walks_by_scaling(half)
    ends = [plain(load(one, "labeled")) for one in (early, end)]
    mixed = plain(model_of(half, "labeled"))
    for name in ends[0]:
        torch.testing.assert_close(mixed[name], (ends[0][name] + ends[1][name]) / 2, rtol=0, atol=1e-6)
    assert write_candidate(Candidate.between(early, end, 0.0), tmp_path / "early").weights == early.weights
    with pytest.raises(ModelError, match="'tune' has no snapshot 'step-7', it has epoch-1, step-6"):
        end.at("step-7")


def plain(model: Any) -> dict[str, torch.Tensor]:
    """Return a model's tensors by their plain names, an adapter merged."""
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return dict(merged.state_dict())


def test_a_snapshot_behind_early_stoppings_best_step_is_no_start(root: Path, tmp_path: Path) -> None:
    stopping = {"patience": 9, "min_delta": 99.0}  # the first evaluation stays the best
    keeping = job(root, 2, {"kind": "lora", "rank": 2}, early_stopping=stopping, snapshots={"steps": [3, 6]})
    end = train(keeping, Workspace(tmp_path))
    assert [(one.name, one.step) for one in end.snapshots] == [("step-3", 3)]
    with pytest.raises(ModelError, match="'tune' has no snapshot 'step-6', it has step-3; did it end"):
        end.at("step-6")


def test_a_snapshot_behind_the_end_is_refused_before_step_1(root: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"step-8 would be taken at or behind the end: there are 8 steps, 4 an epoch"):
        train(job(root, 2, {"kind": "full"}, snapshots={"steps": [2, 8]}), Workspace(tmp_path))


@pytest.mark.parametrize("fields", [{}, {"steps": [0]}, {"epochs": [-1.0]}, {"steps": [3, 3]}])
def test_snapshots_that_are_none(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Snapshots.model_validate(fields)
