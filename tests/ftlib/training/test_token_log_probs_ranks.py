"""Logits in parts where the model is spread: two ranks, replicated or in shards, against one process and whole logits.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import LlamaConfig, LlamaForCausalLM

from ftlib.kinds import token_log_probs
from ftlib.kinds.batch import Batch
from ftlib.training.compute import Compute
from ftlib.training.group import Group, accumulating
from ftlib.training.objectives.causal_lm import CausalLM

WORDS = 53


def made() -> LlamaForCausalLM:
    torch.manual_seed(0)
    small: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=WORDS, hidden_size=16, intermediate_size=24, **small))


def batches(rank: int) -> list[Batch]:
    """Two micro-batches of a rank: the ranks' have different numbers of supervised tokens, one has none."""
    draw = torch.Generator().manual_seed(rank)
    counts = ((8, 8), (3, 1)) if rank == 0 else ((1, 5), (0, 0))
    ids = [torch.randint(0, WORDS, (2, 9), generator=draw) for _ in counts]
    return [
        Batch({"input_ids": one, "attention_mask": torch.ones_like(one)}, torch.tensor(count))
        for one, count in zip(ids, counts, strict=True)
    ]


def rank(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=number, world_size=2)
    group, said = Group.join(2, use_gpu=False), {}
    token_log_probs.WHOLE, token_log_probs.PART = 0, 4 * WORDS * 4
    for sharding in ("ddp", "fsdp"):
        model = group.spread(made(), Compute(sharding=sharding))
        total = torch.zeros(())
        for i, batch in enumerate(batches(number)):
            with accumulating(model, last=i == 1):
                loss = CausalLM().loss(model, batch).total
                (2 * loss).backward()  # gradients are averaged over two ranks
                total += loss.detach()
        grads = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
        full = {name: getattr(grad, "full_tensor", lambda grad=grad: grad)().tolist() for name, grad in grads.items()}
        with torch.no_grad():
            total += CausalLM().loss(model, batches(number)[0]).total
        said[sharding] = {"total": group.sum(total)[0], "grads": full}
    if number == 0:
        (Path(folder) / "said.json").write_text(json.dumps(said))
    os._exit(0)  # gloo's threads have been seen to keep a process from ending by itself


def test_two_ranks_that_read_logits_in_parts_learn_what_one_process_learns(tmp_path: Path) -> None:
    mp.spawn(rank, args=(str(tmp_path),), nprocs=2)
    model, total = made(), 0.0
    for number in (0, 1):
        for i, batch in enumerate(batches(number)):
            loss = CausalLM().loss(model, batch).total
            loss.backward()
            total += (1 + (i == 0)) * loss.item()
    for said in json.loads((tmp_path / "said.json").read_text()).values():
        assert said["total"] == pytest.approx(total, rel=1e-5)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(torch.tensor(said["grads"][name]), parameter.grad, rtol=1e-4, atol=1e-5)
