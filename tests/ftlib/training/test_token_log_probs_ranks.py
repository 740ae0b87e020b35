"""Logits in parts and rows in packs where the model is spread: two ranks, replicated or in shards, against one process.

In a file of its own, since each rank imports it, and what it imports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ftlib.data.inputs import TEXT
from ftlib.kinds import token_log_probs
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.split import PreparedSplit
from ftlib.training.compute import Compute
from ftlib.training.group import Group, accumulating
from ftlib.training.loops.asking import Asking
from ftlib.training.objectives.causal_lm import CausalLM
from ftlib.training.objectives.token_distillation import CausalLMDistillation
from tests.ftlib.training.ranks import in_ranks

WORDS = 53


def made(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
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


class Rows(PreparedSplit):
    """Nine rows, of which a batch has seven."""

    def __init__(self) -> None:
        self.inputs, self.kind = TEXT, "tokens"
        self.lengths = self.sizes = np.array([7, 3, 9, 2, 4, 8, 5, 6, 1])
        self.supervised = np.array([6, 1, 8, 2, 0, 7, 5, 6, 0])
        ids = [
            [int(WORDS * abs(np.sin(7 * row + i))) for i in range(length)] for row, length in enumerate(self.lengths)
        ]
        self._columns = {"input_ids": ids}  # type: ignore[assignment]
        self.targets, self.scores, self.task = None, {}, None


BATCH = np.array([2, 5, 7, 0, 1, 3, 4])


def packed(group: Group, sharding: Literal["ddp", "fsdp"], most: int | None = 12) -> dict[str, Any]:
    """Return what a step over a batch's packs adds up to."""
    model, rows = group.spread(made(), Compute(sharding=sharding)), Rows()
    asking = Asking(CausalLM(), model, Collator.of(made()), group, companions={}, pack_tokens=most)
    asking.check_packing([rows])
    pieces, count = asking.pieces(rows, BATCH)
    total = torch.zeros(())
    for i, piece in enumerate(pieces):
        with accumulating(model, last=i == len(pieces) - 1):
            loss = asking.loss(rows, piece).total * float(piece.counts)
            (loss * group.world_size / count).backward()
        total += loss.detach()
    return {"total": group.sum(total)[0], "count": count, "packs": len(pieces), "grads": gradients(model)}


def distilled(group: Group, sharding: Literal["ddp", "fsdp"], mine: list[Batch]) -> dict[str, Any]:
    """Return what a student adds up beside a teacher that is spread as it is."""
    compute = Compute(sharding=sharding)
    model, teacher = group.spread(made(), compute), group.place(made(seed=1).requires_grad_(False), compute)
    objective, total = CausalLMDistillation(temperature=2.0, soft=0.7), torch.zeros(())
    for i, batch in enumerate(mine):
        with accumulating(model, last=i == 1):
            loss = objective.loss(model, batch, {"teacher": teacher}).total
            (group.world_size * loss).backward()
            total += loss.detach()
    return {"total": group.sum(total)[0], "grads": gradients(model)}


def gradients(model: nn.Module) -> dict[str, Any]:
    grads = {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}
    return {name: getattr(grad, "full_tensor", lambda grad=grad: grad)().tolist() for name, grad in grads.items()}


def learnt(group: Group) -> dict[str, Any]:
    number, said = group.rank, dict[str, Any]()
    token_log_probs.WHOLE, token_log_probs.PART = 0, 4 * WORDS * 4
    for sharding in ("ddp", "fsdp"):
        said[f"{sharding} packed"] = packed(group, sharding)
        model = group.spread(made(), Compute(sharding=sharding))
        total = torch.zeros(())
        for i, batch in enumerate(batches(number)):
            with accumulating(model, last=i == 1):
                loss = CausalLM().loss(model, batch).total
                (2 * loss).backward()  # gradients are averaged over two ranks
                total += loss.detach()
        full = gradients(model)
        said[f"{sharding} distilled"] = distilled(group, sharding, batches(number))
        with torch.no_grad():
            total += CausalLM().loss(model, batches(number)[0]).total
        said[sharding] = {"total": group.sum(total)[0], "grads": full}
    return said


@pytest.mark.slow
def test_two_ranks_that_read_logits_in_parts_learn_what_one_process_learns(tmp_path: Path) -> None:
    model, total = made(), 0.0
    for number in (0, 1):
        for i, batch in enumerate(batches(number)):
            loss = CausalLM().loss(model, batch).total
            loss.backward()
            total += (1 + (i == 0)) * loss.item()
    said, _ = in_ranks(2, learnt, tmp_path)
    alone = packed(Group(0, 1, torch.device("cpu")), "ddp", most=None)
    assert alone["packs"] == 1
    both = [*batches(0), *batches(1)]
    taught = distilled(Group(0, 1, torch.device("cpu")), "ddp", both)
    for sharding in ("ddp", "fsdp"):
        packs, rows = said[f"{sharding} packed"], said[sharding]
        beside = said[f"{sharding} distilled"]
        assert beside["total"] == pytest.approx(taught["total"], rel=1e-5)
        for name, grad in taught["grads"].items():
            torch.testing.assert_close(torch.tensor(beside["grads"][name]), torch.tensor(grad), rtol=1e-4, atol=1e-5)
        assert (packs["count"], packs["packs"]) == (alone["count"], 2)
        assert packs["total"] == pytest.approx(alone["total"], rel=1e-5)
        for name, grad in alone["grads"].items():
            torch.testing.assert_close(torch.tensor(packs["grads"][name]), torch.tensor(grad), rtol=1e-4, atol=1e-6)
        assert rows["total"] == pytest.approx(total, rel=1e-5)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(torch.tensor(rows["grads"][name]), parameter.grad, rtol=1e-4, atol=1e-5)
