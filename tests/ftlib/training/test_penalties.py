"""A penalty in a whole phase, against a plain loop that has it in its loss. On two ranks: test_ranks.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.batches import global_batches
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

SETTINGS = {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8, "weight_decay": 0, "warmup": 0, "clip_norm": 0.5}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(50)
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": rows[:40], "validation": rows[40:]})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


def job(start: Checkpoint, data: PreparedDataset, penalty: dict[str, object] | None, **compute: object) -> TrainJob:
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": {"kind": "classification"},
            "tuning": {"kind": "full"},
            "optimizer": {**SETTINGS, "schedule": "constant"},
            "penalty": penalty,
            "dropout": 0.0,
        }
    )
    settled = Compute.model_validate({"workers": 0, "threads": 1, **compute})
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=settled)


@pytest.mark.parametrize("fresh_head", [True, False])
def test_l2_sp_is_the_same_as_the_penalty_written_into_the_loss(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, fresh_head: bool
) -> None:
    first = start.model_copy(update={"fresh_head": fresh_head})
    asked = job(first, data, {"kind": "l2_sp", "alpha": 2.0, "beta": 0.5}, micro_batch_size=3)
    done = train(asked, Workspace(tmp_path))
    recorded = [record["penalty"] for record in curves.read(done.path / curves.FILE) if "penalty" in record]

    model = AutoModelForSequenceClassification.from_pretrained(start.path / "model").eval()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0, foreach=False)
    split, penalties = open_split(data.path / "train.arrow", LABELS), list[float]()
    for rows in global_batches(split.lengths, 8, 7, 0):
        batch = split.batch(rows, Collator.of(model))
        penalty = torch.zeros(())
        for name, p in model.named_parameters():
            head = fresh_head and name.startswith("classifier")
            penalty = penalty + (0.25 * p.square().sum() if head else 1.0 * (p - before[name]).square().sum())
        (model(**batch.inputs, labels=batch.targets).loss + penalty).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        penalties.append(penalty.item())
    assert recorded == pytest.approx(penalties, rel=1e-3, abs=1e-9)
    ours = load_model(done.path / "model", "labeled").state_dict()
    for name, theirs in model.state_dict().items():
        if name.endswith("key.bias"):  # it has no gradient but rounding, which Adam makes as large as any other
            continue
        torch.testing.assert_close(ours[name], theirs, rtol=2e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_a_resumed_run_is_pulled_to_where_the_phase_started(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    asked = job(start, data, {"kind": "l2_sp", "alpha": 2.0}, checkpoint_seconds=1e-9)
    whole = train(asked, Workspace(tmp_path / "whole"))
    with stopped_at(2):
        train(asked, Workspace(tmp_path / "stopped"))
    resumed = train(asked, Workspace(tmp_path / "stopped"))
    assert (resumed.facts["resumed_from_step"], resumed.weights) == (2, whole.weights)
    assert whole.fingerprint != job(start, data, None).fingerprint
