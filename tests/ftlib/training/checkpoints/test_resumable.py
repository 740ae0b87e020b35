"""Checkpoints of several ranks: written beside the steps, read again by any number, whole or absent."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from ftlib.errors import IntegrityError, StorageError
from ftlib.training.checkpoints import resumable as checkpoints
from ftlib.training.checkpoints.resumable import Checkpoints, State
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.compute import Compute
from ftlib.training.group import Group, unwrap
from ftlib.training.loops.ema import Average

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))


class Layers(nn.Module):
    """Sizes that two ranks cannot halve and four not deal out, a tied weight, a frozen layer and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 5)])
        self.norm, self.head, self.back = nn.BatchNorm1d(5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.back.weight = self.head.weight
        self.layers[0].requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.back(self.head(self.norm(x)))


class Run:
    """A model with all that a checkpoint holds of one, on one rank."""

    def __init__(self, group: Group, sharding: str, folder: Path) -> None:
        torch.manual_seed(0)
        compute = {
            "sharding": sharding.removeprefix("h"),
            "replicas": 2 if sharding == "hfsdp" and group.world_size > 1 else 1,
        }
        self.model = group.spread(Layers(), Compute.model_validate({"workers": group.world_size, **compute}))
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], 0.1, fused=True)
        self.average = Average(self.model, 0.5)
        self.checkpoints = Checkpoints(RunPlace(str(folder)), "f" * 16, group)

    @property
    def learnt(self) -> tuple[nn.Module, torch.optim.Optimizer, Average]:
        return self.model, self.optimizer, self.average

    def step(self, n: int) -> None:
        torch.manual_seed(n)
        self.model(torch.randn(4, 5)).square().mean().backward()
        self.optimizer.step()
        self.average.update(first=n == 0)
        self.optimizer.zero_grad()

    def bits(self) -> dict[str, torch.Tensor]:
        """Everything, whole, on every rank."""
        model = unwrap(self.model)
        names = {p: name for name, p in model.named_parameters()}
        moments = {f"{names[p]}/{key}": value for p, of in self.optimizer.state.items() for key, value in of.items()}
        averages = {f"average/{name}": tensor for name, tensor in self.average.tensors.items()}
        held = {**model.state_dict(), **moments, **averages}
        return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone() for name, t in held.items()}


def trained(group: Group, sharding: str, folder: Path) -> None:
    """Save step 2 of 3, with a best step 1, and leave what a run has then in a file."""
    run = Run(group, sharding, folder)
    assert run.checkpoints.restore(*run.learnt) is None
    for n in range(3):
        run.step(n)
        if n == 0:
            run.checkpoints.keep_best(run.model, 1)
            best = run.bits()
        if n == 1:
            run.checkpoints.save(*run.learnt, State(step=2, best_step=1, best_loss=0.1))
            whole = run.bits()
    run.checkpoints.settle()
    run.checkpoints.close()
    if group.is_first:
        save_file(whole, folder / "whole.safetensors")
        save_file(best, folder / "best.safetensors")


def read_again(group: Group, sharding: str, folder: Path) -> None:
    run = Run(group, sharding, folder)
    assert run.checkpoints.restore(*run.learnt) == State(step=2, best_step=1, best_loss=0.1)
    whole, best = (load_file(folder / f"{name}.safetensors") for name in ("whole", "best"))
    found = run.bits()
    assert found.keys() == whole.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, whole[name]), name
    run.checkpoints.restore_best(run.model, 1)
    for name in unwrap(run.model).state_dict():
        assert torch.equal(run.bits()[name], best[name]), name


def failing(group: Group, sharding: str, folder: Path) -> None:
    """The second rank's disk is full: every rank hears of it, from its own words."""
    run = Run(group, sharding, folder)
    run.checkpoints.restore(*run.learnt)

    def refuse(*_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if group.rank == 1:
        checkpoints.write_part = refuse  # type: ignore[assignment]
    run.checkpoints.save(*run.learnt, State(step=1))
    with pytest.raises(StorageError, match=r"No space left on device.*choose another --work"):
        run.checkpoints.settle()
    (folder / f"told-{group.rank}").touch()


WORK = Callable[[Group, str, Path], None]


def rank(number: int, of: int, work: WORK, sharding: str, folder: str, meeting: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=of)
    work(Group(rank=number, world_size=of, device=torch.device("cpu")), sharding, Path(folder))
    dist.barrier()
    dist.destroy_process_group()


def on_ranks(of: int, work: WORK, sharding: str, folder: Path) -> None:
    if of == 1:
        work(ALONE, sharding, folder)
        return
    meeting = folder / f"meeting-{of}-{work.__name__}"
    mp.spawn(rank, args=(of, work, sharding, str(folder), str(meeting)), nprocs=of)  # type: ignore[no-untyped-call]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("wrote", "reads", "sharding"),
    [
        (2, 1, "fsdp"),
        (1, 2, "fsdp"),
        (2, 4, "fsdp"),
        (4, 2, "fsdp"),
        (2, 1, "ddp"),
        (4, 1, "hfsdp"),
    ],
)
def test_parts_of_some_ranks_are_read_by_others(tmp_path: Path, wrote: int, reads: int, sharding: str) -> None:
    on_ranks(wrote, trained, sharding, tmp_path)
    parts = sorted((tmp_path / "checkpoints" / "step-00000002").glob("*.safetensors"))
    assert len(parts) == wrote
    regions = [json.loads(part.with_suffix(".json").read_bytes())["regions"] for part in parts]
    sizes = {name: prod(whole) for of in regions for name, (whole, _, _) in of.items()}
    assert sum(prod(shape) for of in regions for _, _, shape in of.values()) == sum(sizes.values())  # each once
    on_ranks(reads, read_again, sharding, tmp_path)


@pytest.mark.slow
def test_a_rank_that_cannot_write_fails_the_run_on_every_rank(tmp_path: Path) -> None:
    on_ranks(2, failing, "fsdp", tmp_path)
    assert sorted(path.name for path in tmp_path.glob("told-*")) == ["told-0", "told-1"]
    assert not list(tmp_path.rglob("manifest.json"))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(ALONE, "ddp", tmp_path)
    run.checkpoints.restore(*run.learnt)
    return run


def again(folder: Path) -> State | None:
    """Return what another attempt of the same run resumes from."""
    run = Run(ALONE, "ddp", folder)
    return run.checkpoints.restore(*run.learnt)


def test_a_checkpoint_is_of_its_step_though_training_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    write = checkpoints.write_part

    def late(path: Path, tensors: Any) -> str:
        while len(order) < 1:
            pass
        order.append("written")
        return write(path, tensors)

    monkeypatch.setattr(checkpoints, "write_part", late)
    run.step(0)
    expected = run.bits()
    run.checkpoints.save(*run.learnt, State(step=1))
    assert run.checkpoints.is_writing
    run.step(1)
    order.append("step 2")
    run.checkpoints.settle()
    assert order == ["step 2", "written"]
    resumed = Run(ALONE, "ddp", tmp_path)
    assert resumed.checkpoints.restore(*resumed.learnt) == State(step=1)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.bits().items())


def test_frozen_and_tied_weights_are_not_written_twice(run: Run, tmp_path: Path) -> None:
    run.checkpoints.save(*run.learnt, State(step=1))
    run.checkpoints.settle()
    described = json.loads((tmp_path / "checkpoints" / "step-00000001" / "rank-00000.json").read_bytes())
    weights = {name.removeprefix("weights/") for name in described["regions"] if name.startswith("weights/")}
    every = set(Layers().state_dict())
    assert every - weights == {"layers.0.weight", "layers.0.bias", "back.weight"}


def test_a_full_disk_is_told_at_the_next_step_and_the_last_whole_one_stays(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.checkpoints.save(*run.learnt, State(step=1))
    run.checkpoints.settle()

    def refuse(*_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "write_part", refuse)
    run.checkpoints.save(*run.learnt, State(step=2))
    while run.checkpoints.is_writing and not run.checkpoints.has_failed:
        pass
    assert run.checkpoints.has_failed
    with pytest.raises(StorageError, match=r"step-00000002: No space left on device; .* are free"):
        run.checkpoints.settle()
    assert again(tmp_path) == State(step=1)
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("fails", [0, 1])
def test_what_was_begun_behind_a_part_that_failed_is_not_waited_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """Of a step and then the best weights, and the other way round: no thread looks for a part that does not come."""
    written, write_part = list[Path](), checkpoints.write_part

    def refuse_the_first(path: Path, tensors: Any) -> str:
        written.append(path)
        if len(written) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_part(path, tensors)

    monkeypatch.setattr(checkpoints, "write_part", refuse_the_first)
    begin = [lambda: run.checkpoints.save(*run.learnt, State(step=2)), lambda: run.checkpoints.keep_best(run.model, 2)]
    begin[fails]()
    begin[1 - fails]()
    with pytest.raises(StorageError, match="No space left on device"):
        run.checkpoints.settle()
    assert again(tmp_path) is None


def test_without_memory_for_a_copy_the_step_waits(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "spare_memory", lambda: 100.0)
    run.checkpoints.save(*run.learnt, State(step=1))
    assert (tmp_path / "checkpoints" / "step-00000001" / "rank-00000.json").exists()
    run.checkpoints.settle()
    assert again(tmp_path) == State(step=1)


def test_what_a_killed_attempt_left_is_not_taken_for_this_one_s(run: Run, tmp_path: Path) -> None:
    """A part that was described before the kill, of a rank that there is no more."""
    folder = tmp_path / "checkpoints" / "step-00000004"
    folder.mkdir(parents=True)
    (folder / "rank-00001.json").write_text(json.dumps({"attempt": "another", "sha256": "", "regions": {}}))
    assert again(tmp_path) is None
    assert not folder.exists()


def test_the_best_weights_of_a_checkpoint_stay_as_long_as_it(run: Run, tmp_path: Path) -> None:
    for step, best in ((1, 1), (2, 1), (3, 3), (4, 4), (5, 4)):
        if best == step:
            run.checkpoints.keep_best(run.model, step)
        run.checkpoints.save(*run.learnt, State(step=step, best_step=best))
    run.checkpoints.keep_best(run.model, 6)
    run.checkpoints.settle()
    names = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    assert names == ["best-00000004", "best-00000006", "step-00000004", "step-00000005"]
    assert again(tmp_path) == State(step=5, best_step=4)
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").glob("best-*")) == ["best-00000004"]


def test_damaged_best_weights_are_refused(run: Run, tmp_path: Path) -> None:
    run.checkpoints.keep_best(run.model, 1)
    run.checkpoints.settle()
    part = tmp_path / "checkpoints" / "best-00000001" / "rank-00000.safetensors"
    part.write_bytes(part.read_bytes()[:-1] + b"\1")
    with pytest.raises(IntegrityError, match=r"best-00000001: the weights are damaged \(rank-00000\.safetensors"):
        run.checkpoints.restore_best(run.model, 1)
    with pytest.raises(IntegrityError, match=r"best-00000002: the weights are damaged \(manifest\.json"):
        run.checkpoints.restore_best(run.model, 2)
