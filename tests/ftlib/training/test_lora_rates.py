"""LoRA+: B's learning rate as a multiple of A's, against the groups that peft makes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.optimizers import create_loraplus_optimizer
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from ftlib.config import BatchKind
from ftlib.fingerprint import identify
from ftlib.kinds.loading import head_modules
from ftlib.training.optimizer import build_optimizer, set_rate
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.tuning.lora import LoRA

SIZES: dict[str, Any] = {"vocab_size": 20, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize("kind", ["labeled", "tokens"])
def test_rates_are_those_of_pefts_loraplus(kind: BatchKind) -> None:
    """But for vectors of the head and DoRA's magnitudes, which peft steps as B; the paper speaks of B alone."""
    model: PreTrainedModel = (
        BertForSequenceClassification(BertConfig(**SIZES, num_hidden_layers=2))
        if kind == "labeled"
        else LlamaForCausalLM(LlamaConfig(**SIZES, num_hidden_layers=2))
    )
    head = head_modules(model)
    tuned = LoRA(rank=2, b_rate_ratio=16.0).prepare(model, kind, head)
    factors = LoRA(rank=2, b_rate_ratio=16.0).rate_factors(tuned, head)
    ours = build_optimizer(tuned, AdamW(learning_rate=2e-4), 1.0, head, 0, factors)
    set_rate(ours, 2e-4)
    theirs: Any = create_loraplus_optimizer(tuned, torch.optim.AdamW, lr=2e-4, loraplus_lr_ratio=16.0)  # type: ignore[arg-type]
    rates = [{id(p): group["lr"] for group in one.param_groups for p in group["params"]} for one in (ours, theirs)]
    assert rates[0].keys() == rates[1].keys()
    compared = [(name, p) for name, p in tuned.named_parameters() if p.requires_grad and p.ndim > 1]
    assert sorted({rates[0][id(p)] for _, p in compared}) == pytest.approx([2e-4, 32e-4])
    for name, p in compared:
        assert rates[0][id(p)] == pytest.approx(rates[1][id(p)]), name
    assert all(rates[0][id(p)] == 2e-4 for p in tuned.parameters() if p.requires_grad and p.ndim == 1)


def test_a_ratio_of_one_is_no_part_of_the_identity() -> None:
    assert identify(LoRA(b_rate_ratio=1.0)) == identify(LoRA())
    assert "b_rate_ratio" not in identify(LoRA())
    assert identify(LoRA(b_rate_ratio=16.0)) != identify(LoRA())
    assert LoRA(rank=2).layer_decay == 1.0
