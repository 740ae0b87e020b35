"""Batches that a thread builds are those that the loop would build, and so is what goes wrong with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches_ahead import BatchesAhead
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

CPU = torch.device("cpu")


def test_a_step_s_are_built_on_another_thread_while_the_step_before_it_runs() -> None:
    built: dict[int, str] = {}
    third = threading.Event()

    def building(step: int) -> Callable[[], int]:
        def build() -> int:
            built[step] = threading.current_thread().name
            if step == 2:
                third.set()
            return step * 10

        return build

    ahead = BatchesAhead(building, 4, CPU)
    assert [ahead.at(0), ahead.at(1)] == [0, 10]
    assert third.wait(10)
    assert [ahead.at(2), ahead.at(3)] == [20, 30]
    ahead.close()
    assert sorted(built) == [0, 1, 2, 3]
    assert built[0] == threading.current_thread().name
    assert {built[step].rpartition("_")[0] for step in (1, 2, 3)} == {"batches"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, PreparedDataset]:
    folder, rows = tmp_path_factory.mktemp("made"), tiny_rows(60)
    data = tiny_prepared(folder / "data", {"train": rows[:48], "validation": rows[48:]})
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    return base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(folder)), data


def job(made: tuple[Checkpoint, PreparedDataset]) -> TrainJob:
    phase = {"name": "tune", "dataset": "d", "objective": {"kind": "classification"}, "tuning": {"kind": "full"}}
    optimizer = {"learning_rate": 1e-3, "epochs": 2, "batch_size": 10}
    return TrainJob(
        start=made[0],
        data=made[1],
        phase=Phase.model_validate({**phase, "optimizer": optimizer, "dropout": 0.1}),
        precision="fp32",
        seed=3,
        compute=Compute(workers=0, threads=1, micro_batch_size=4),
    )


def losses(checkpoint: Checkpoint) -> list[Any]:
    return [record.get("loss") for record in curves.read(checkpoint.path / curves.FILE)]


def test_a_training_with_batches_built_ahead_is_the_same_training(
    made: tuple[Checkpoint, PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = train(job(made), Workspace(tmp_path / "at_once"))
    monkeypatch.setattr("ftlib.training.loops.loop.AHEAD", {"cpu"})
    with stopped_at(5):
        train(job(made), Workspace(tmp_path / "ahead"))
    ahead = train(job(made), Workspace(tmp_path / "ahead"))
    assert ahead.facts["resumed_from_step"] == 5
    assert ahead.weights == at_once.weights
    assert losses(ahead) == losses(at_once)


def test_what_goes_wrong_with_a_batch_is_said_at_its_own_step(
    made: tuple[Checkpoint, PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(job(made), Workspace(tmp_path / "whole"))
    monkeypatch.setattr("ftlib.training.loops.loop.AHEAD", {"cpu"})
    batch, asked = PreparedSplit.batch, list[int]()

    def damaged(self: PreparedSplit, rows: Any, *rest: Any) -> Any:
        if threading.current_thread().name.startswith("batches"):
            asked.append(len(asked))
            if len(asked) == 4:  # of step 3: micro-batches of four rows
                raise ModelError("a row holds the token 99999")
        return batch(self, rows, *rest)

    monkeypatch.setattr(PreparedSplit, "batch", damaged)
    broken = Workspace(tmp_path / "broken")
    with pytest.raises(ModelError, match="a row holds the token 99999"):
        train(job(made), broken)
    done = curves.read(broken.folder(job(made)).with_suffix(".work") / curves.FILE)
    assert [record["step"] for record in done] == [1, 2]
    assert [record["loss"] for record in done] == losses(whole)[:2]
