"""Numbers that are read some steps later change nothing but when they are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import TrainingError
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.checkpoints.resumable import Checkpoints, State
from ftlib.training.compute import Compute
from ftlib.training.loops import readings
from ftlib.training.loops.readings import Readings
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at


@pytest.fixture(params=[1, 3])
def late(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """So many steps late, as on a GPU."""
    monkeypatch.setitem(readings.AHEAD, "cpu", request.param)
    yield request.param
    monkeypatch.undo()


def test_a_step_is_read_when_as_many_are_queued_behind_it(late: int) -> None:
    read: list[tuple[str, list[float]]] = []
    queue = Readings[str](torch.device("cpu"), lambda step, numbers, _: read.append((step, numbers)))
    for i in range(4):
        queue.add(f"step {i}", torch.tensor([i / 2], dtype=torch.float64), 0.0)
        assert [step for step, _ in read] == [f"step {j}" for j in range(i + 1 - late)]
    queue.settle()
    assert read == [(f"step {i}", [i / 2]) for i in range(4)]


def test_a_step_that_is_read_at_once_has_its_own_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([3.0, 9.0])
    monkeypatch.setattr(readings.time, "monotonic", lambda: next(now))
    seconds: list[float] = []
    queue = Readings[int](torch.device("cpu"), lambda *read: seconds.append(read[2]))
    queue.add(1, torch.zeros(1), began=1.0)
    queue.add(2, torch.zeros(1), began=8.0)
    assert seconds == [2.0, 1.0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, PreparedDataset]:
    folder, rows = tmp_path_factory.mktemp("made"), tiny_rows(60)
    data = tiny_prepared(folder / "data", {"train": rows[:48], "validation": rows[48:]})
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    return base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(folder)), data


def job(made: tuple[Checkpoint, PreparedDataset], rate: float = 1e-3, **compute: Any) -> TrainJob:
    optimizer = {"learning_rate": rate, "epochs": 3, "batch_size": 8, "clip_norm": 1.0 if rate < 1 else None}
    phase = {"name": "tune", "dataset": "d", "objective": {"kind": "classification"}, "tuning": {"kind": "full"}}
    fields = {"optimizer": optimizer, "early_stopping": {"patience": 9}, "ema_decay": 0.5, "dropout": 0.1}
    return TrainJob(
        start=made[0],
        data=made[1],
        phase=Phase.model_validate({**phase, **fields, "penalty": {"kind": "l2_sp"}}),
        precision="fp32",
        seed=3,
        compute=Compute.model_validate({"workers": 0, "threads": 1, **compute}),
    )


def told(checkpoint: Checkpoint) -> list[dict[str, float | int]]:
    records = curves.read(checkpoint.path / curves.FILE)
    return [{key: value for key, value in record.items() if key != "samples_per_second"} for record in records]


def test_a_training_that_is_read_late_is_the_same_training(
    made: tuple[Checkpoint, PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = train(job(made), Workspace(tmp_path / "at_once"))
    monkeypatch.setitem(readings.AHEAD, "cpu", 2)
    late = train(job(made), Workspace(tmp_path / "late"))
    assert late.weights == at_once.weights
    assert told(late) == told(at_once)
    assert late.facts["final_loss"] == at_once.facts["final_loss"]


def test_a_checkpoint_holds_no_step_that_was_not_read(
    made: tuple[Checkpoint, PreparedDataset], late: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(job(made), Workspace(tmp_path / "whole"))
    saved: list[tuple[int, int]] = []
    killed = Workspace(tmp_path / "killed")
    curve = killed.folder(job(made)).with_suffix(".work") / curves.FILE
    save = Checkpoints.save

    def watched(self: Checkpoints, *rest: Any) -> None:
        (state,) = (one for one in rest if isinstance(one, State))
        if state.step:  # the rehearsal saves the model before any step
            saved.append((state.step, int(curves.read(curve)[-1]["step"])))
        save(self, *rest)

    monkeypatch.setattr(Checkpoints, "save", watched)
    with stopped_at(9, late):
        train(job(made, checkpoint_seconds=1e-6), killed)
    assert saved
    assert all(step == last for step, last in saved)
    resumed = train(job(made), killed)
    assert int(resumed.facts["resumed_from_step"]) > 0
    assert resumed.weights == whole.weights
    assert told(resumed) == told(whole)


def test_a_loss_that_is_no_number_is_said_of_its_own_step(
    made: tuple[Checkpoint, PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError) as at_once:
        train(job(made, rate=1e30), Workspace(tmp_path / "at_once"))
    monkeypatch.setitem(readings.AHEAD, "cpu", 2)
    with pytest.raises(TrainingError) as late:
        train(job(made, rate=1e30), Workspace(tmp_path / "late"))
    assert str(late.value) == str(at_once.value)
