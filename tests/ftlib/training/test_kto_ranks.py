"""KTO where a batch is dealt to two ranks, replicated or in shards: z0, losses and weights are those of one process.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ftlib.data.prepared import add_scores, split_file
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.testing import tiny_chat_lm, tiny_prepared, tiny_thumbs
from ftlib.training.compute import Compute
from ftlib.training.group import Group, accumulating
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.attempt import Sums
from ftlib.training.objectives.kto import KTO

BATCHES = (np.array([3, 0, 5, 2, 7]), np.array([1, 6, 4]), np.array([7, 5, 3, 1, 0]))
"""Odd ones: one of two ranks has a row less, and repeats one that must not count."""


def learnt(folder: Path, group: Group, sharding: Literal["ddp", "fsdp"], micro: int | None) -> dict[str, Any]:
    """Return what each of three steps says, its loss and z0, and the weights after the last."""
    loaded = load_model(folder / "model", "judged")
    split = open_split(folder / "scored.arrow", ())
    model: Any = group.spread(loaded, Compute(sharding=sharding))
    asking = Asking(
        KTO(beta=0.2, desirable=1.5, undesirable=0.5),
        model,
        Collator.of(loaded),
        group,
        companions={},
        micro_batch_size=micro,
    )
    optimizer, said = torch.optim.SGD(model.parameters(), lr=2.0), list[list[float]]()
    for rows in BATCHES:
        pieces, count = asking.pieces(split, rows)
        sums = Sums(torch.zeros((), dtype=torch.float64))
        for i, piece in enumerate(pieces):
            with accumulating(model, last=i == len(pieces) - 1):
                loss = asking.loss(split, piece)
                (loss.total * float(piece.counts) * group.world_size / count).backward()
            sums.add(loss, float(piece.counts))
        z0 = group.sum(*sums.beside["z0"])
        said.append([group.sum(sums.loss)[0] / count, z0[0] / z0[1], count])
        optimizer.step()
        optimizer.zero_grad()
    whole = {name.removeprefix("module."): one for name, one in model.named_parameters()}
    return {
        "said": said,
        "weights": {n: getattr(one, "full_tensor", lambda one=one: one)().tolist() for n, one in whole.items()},
    }


def rank(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    group = Group.join(2, use_gpu=False)
    said = {name: learnt(Path(folder), group, name, micro) for name, micro in (("ddp", 2), ("fsdp", None))}
    Path(folder, f"rank{number}").write_text(json.dumps(said))
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


@pytest.mark.slow
def test_two_ranks_learn_by_the_z0_of_the_global_batch(tmp_path: Path) -> None:
    """The reference is so far below the start that z0 is above 0, and so uneven that a rank's own rows give another."""
    tiny_chat_lm(tmp_path / "model")
    path = split_file(tiny_prepared(tmp_path / "rows", {"train": tiny_thumbs(8)}, kind="judged").path, "train")
    reference = np.random.default_rng(1).normal(-60, 4, size=(8, 2)).astype(np.float32)
    add_scores(path, tmp_path / "scored.arrow", "reference", reference)
    alone = learnt(tmp_path, Group(0, 1, torch.device("cpu")), "ddp", None)
    distances = [z0 for _, z0, _ in alone["said"]]
    assert all(z0 > 0 for z0 in distances)
    mp.spawn(rank, args=(str(tmp_path),), nprocs=2)
    for number in (0, 1):
        told = json.loads((tmp_path / f"rank{number}").read_text())
        for sharding in ("ddp", "fsdp"):
            np.testing.assert_allclose(told[sharding]["said"], alone["said"], rtol=1e-5)
            for name, weight in alone["weights"].items():
                np.testing.assert_allclose(told[sharding]["weights"][name], weight, rtol=1e-4, atol=1e-6)
