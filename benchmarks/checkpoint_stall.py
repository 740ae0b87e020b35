"""How long a step waits for its checkpoint: `python -m benchmarks.checkpoint_stall`.

Three ways, in turn, of the same tensors: weights and two moments of AdamW. `torch` is torch's distributed checkpoint
and a pass over its files for their digests, as the loop did until it wrote beside the steps; `waits` our parts, with
the step waiting for them; `beside` the same as the loop does it. Also what the writing takes from a step's work.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.checkpoint.state_dict_saver import save as save_sharded

from benchmarks.machine import describe_machine
from benchmarks.rounds import can_record, print_result, print_table
from ftlib.fingerprint import file_digest
from ftlib.training.checkpoints.resumable import Checkpoints, State
from ftlib.training.checkpoints.run_place import run_place
from ftlib.training.group import Group


@click.command()
@click.option("--millions", type=int, default=300, show_default=True, help="Parameters.")
@click.option("--rounds", type=int, default=4, show_default=True, help="The first, which takes the memory, is apart.")
@click.option("--gpu", is_flag=True, help="The tensors are a GPU's.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Where to write; the system's if unset.")
@can_record
def main(millions: int, rounds: int, gpu: bool, folder: Path | None) -> None:
    """Measure seconds that a step waits, and until the checkpoint is whole."""
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    model = nn.ModuleList([nn.Linear(4096, 4096, bias=False) for _ in range(max(1, round(millions / 16.8)))]).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        checkpoints = Checkpoints(run_place(place), "benchmark", Group(rank=0, world_size=1, device=device))
        checkpoints.restore(model, optimizer, None)
        begin = _beginning(checkpoints, model, optimizer)
        stalls: dict[str, list[float]] = {"torch": [], "waits": [], "beside": []}
        whole: list[float] = []
        slower: list[float] = []
        for step in range(rounds):
            stalls["torch"].append(_seconds(lambda: _as_torch_does(model, optimizer, Path(place) / "torch")))
            stalls["waits"].append(_seconds(lambda step=step: (begin(2 * step + 1), checkpoints.settle())))
            alone = _seconds(lambda: _work(device))
            began = time.perf_counter()
            stalls["beside"].append(_seconds(lambda step=step: begin(2 * step + 2)))
            slower.append(_seconds(lambda: _work(device)) / alone)
            checkpoints.settle()
            whole.append(time.perf_counter() - began)
        checkpoints.close()
    usual = {name: median(seconds[1:] or seconds) for name, seconds in stalls.items()}
    parameters = sum(p.numel() for p in model.parameters())
    print_table(
        f"A step waits for its checkpoint of {12 * parameters / 1e9:.2f} GB, whole after {median(whole):.1f} s",
        ["way", "seconds", "the first"],
        [[name, f"{usual[name]:.2f}", f"{seconds[0]:.2f}"] for name, seconds in stalls.items()],
    )
    print_result(
        "checkpoint_stall",
        {
            **{f"beside_over_{name}": usual["beside"] / usual[name] for name in ("torch", "waits")},
            "work_beside_a_write_over_alone": median(slower),
        },
        {"parameters": parameters, "rounds": rounds, "device": str(device), **describe_machine()},
    )


def _seconds(work: Callable[[], object]) -> float:
    """Return how long the processor and, if there is one, the GPU are busy with it."""
    settle = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    settle()
    began = time.perf_counter()
    work()
    settle()
    return time.perf_counter() - began


def _as_torch_does(model: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    weights, moments = get_state_dict(model, optimizer)
    save_sharded({"model": weights, "optimizer": moments}, checkpoint_id=folder, no_dist=True)
    for file in folder.iterdir():
        file_digest(file)


def _beginning(checkpoints: Checkpoints, model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[int], None]:
    return lambda step: checkpoints.save(model, optimizer, None, State(step=step))


def _work(device: torch.device) -> None:
    """Multiply for about a second on a core."""
    a = torch.ones(1024, 1024, device=device)
    for _ in range(40):
        a = (a @ a) / 1024


if __name__ == "__main__":
    main()
