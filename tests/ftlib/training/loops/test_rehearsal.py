"""Before the first step: what fails is told with numbers, and nothing of it is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ftlib.errors import TrainingError
from ftlib.kinds.loading import load_model
from ftlib.models.checkpoint import model_in
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.compute import Compute
from ftlib.training.curves import Curves
from ftlib.training.group import Group
from ftlib.training.loops import phase_loop as loops
from ftlib.training.loops import rehearsal
from ftlib.training.loops.loop import Loop
from ftlib.training.memory.prediction import MEASURED
from ftlib.training.phase import Phase
from ftlib.training.plan import Part, Plan
from ftlib.training.worker import outcome, work

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture(autouse=True)
def quick_prediction() -> None:
    """Predict the passes too."""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    start = tiny_checkpoint(tmp_path / "start")
    data = tiny_prepared(tmp_path / "data", {"train": tiny_rows(40), "validation": tiny_rows(8, seed=1)})
    (tmp_path / "run").mkdir()
    return Plan(
        fingerprint="f",
        start=start,
        parts=(Part(name="d", folder=data.uri),),
        run=str(tmp_path / "run"),
        kind="labeled",
        labels=LABELS,
        phase=Phase.model_validate(
            {
                "name": "tune",
                "dataset": "d",
                "objective": {"kind": "classification"},
                "tuning": {"kind": "full"},
                "optimizer": {"batch_size": 16, "epochs": 1},
                "ema_decay": 0.5,
            }
        ),
        precision="fp32",
        seed=0,
        compute=Compute(workers=0, threads=1),
    )


def made(plan: Plan) -> Loop:
    return Loop(plan, ALONE, Curves(RunPlace(plan.run), "tune", active=False))


def rehearse(loop: Loop) -> None:
    rehearsal.rehearse(loop.sized, loop.asking, RunPlace(loop.plan.run))


def test_nothing_of_it_is_left(plan: Plan) -> None:
    loop = made(plan)
    assert loop.average is not None
    before = {name: tensor.clone() for name, tensor in loop.model.state_dict().items()}
    averages = {name: tensor.clone() for name, tensor in loop.average.tensors.items()}
    groups = [{k: v for k, v in group.items() if k != "params"} for group in loop.optimizer.param_groups]
    drawn = torch.random.get_rng_state()
    rehearse(loop)
    assert all(torch.equal(before[name], tensor) for name, tensor in loop.model.state_dict().items())
    assert all(torch.equal(averages[name], tensor) for name, tensor in loop.average.tensors.items())
    assert torch.equal(drawn, torch.random.get_rng_state())
    assert not loop.optimizer.state
    assert [{k: v for k, v in group.items() if k != "params"} for group in loop.optimizer.param_groups] == groups
    assert all(parameter.grad is None for parameter in loop.model.parameters())
    assert not (Path(plan.run) / "rehearsal").exists()


def test_a_run_ends_with_the_same_bits_without_it(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work(plan)
    facts = outcome(plan)
    assert int(facts[MEASURED]) > 0
    assert int(facts["predicted_weights_bytes"]) > 4 * 30_000
    (bare := tmp_path / "bare").mkdir()
    monkeypatch.setattr(loops, "rehearse", lambda *_: None)
    other = plan.model_copy(update={"run": str(bare)})
    work(other)
    first, second = (load_model(model_in(Path(one.run)), "labeled").state_dict() for one in (plan, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_that_goes_on_does_not_rehearse_again(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    monkeypatch.setattr(loops, "rehearse", lambda *_: heard.append(1))
    loop = made(plan)
    loop.checkpoints.restore(loop.model, loop.optimizer, loop.average)
    loop.checkpoints.save(loop.model, loop.optimizer, loop.average, loops.State(step=1))
    loop.checkpoints.settle()
    loop.checkpoints.close()
    work(plan)
    assert outcome(plan)["resumed_from_step"] == 1
    assert heard == []


@pytest.mark.parametrize(
    "kind",
    [torch.OutOfMemoryError, *(pytest.param(one, marks=pytest.mark.slow) for one in (MemoryError, RuntimeError))],
)
def test_too_little_memory_is_told_with_numbers_and_a_remedy(
    plan: Plan, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise kind("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes\nat …")

    monkeypatch.setattr(rehearsal, "_pass", refuse)
    monkeypatch.setattr(rehearsal.peak_memory, "of_machine", lambda: 701_000_000)
    work(plan)
    with pytest.raises(TrainingError) as caught:
        outcome(plan)
    said = str(caught.value)
    assert "\n" not in said
    for part in ("a worker's memory is too small", "predicted are 70", "process 700 MB", "activations", "of 701 MB"):
        assert part in said
    assert "set compute.micro_batch_size to " in said or "compute.micro_batch_size" in said.rpartition(";")[2]


def test_another_runtime_error_stays_what_it_is(plan: Plan) -> None:
    loop = made(plan)
    with pytest.raises(RuntimeError, match="shapes"), rehearsal.enough_memory(loop.sized, ALONE.device):
        raise RuntimeError("shapes")


def test_a_disk_that_changes_what_is_written_is_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = made(plan)

    def spoil(*_: Any) -> None:
        with torch.no_grad():
            next(loop.model.parameters()).add_(1.0)

    monkeypatch.setattr(rehearsal, "_save_and_reload", spoil)
    with pytest.raises(TrainingError, match="weights that were read back are not those"):
        rehearse(loop)
