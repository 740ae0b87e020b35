"""What is frozen is held in bf16: half the memory, the same bits of a forward pass, and the start's own when saved."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from ftlib.training.frozen_bf16 import as_started, hold_frozen_in_bf16
from tests.ftlib.training.test_layers import SIZES, gradients, llama, llama_with_lora


def bert_with_a_head() -> nn.Module:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**SIZES, num_hidden_layers=2)).requires_grad_(False)
    model.classifier.requires_grad_(True)
    return model.train()


def gpt2_with_lora() -> nn.Module:
    """Its linear layers are transposed ones of transformers' own, and its head is tied to its embedding."""
    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, **ids))
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    return get_peft_model(model, config).train()  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [llama_with_lora, bert_with_a_head, gpt2_with_lora])
def test_exact_changes_no_bit_of_a_step_under_autocast(make) -> None:  # type: ignore[no-untyped-def]
    held = make()
    hold_frozen_in_bf16(held, exact=True)
    cast = [p for p in held.parameters() if p.dtype == torch.bfloat16]
    assert cast
    assert not any(p.requires_grad for p in cast)
    expected, found = gradients(make(), bf16=True), gradients(held, bf16=True)
    assert len(expected) > 1
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_on_a_gpu_all_that_is_frozen_is_held_so() -> None:
    model = llama_with_lora()
    before = sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad)
    hold_frozen_in_bf16(model, exact=False)
    assert 2 * sum(p.numel() * p.element_size() for p in model.parameters() if not p.requires_grad) == before
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    expected, found = gradients(llama_with_lora(), bf16=True), gradients(model, bf16=True)
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=2e-2, atol=0)


def test_batch_norms_and_what_dora_measures_stay() -> None:
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).requires_grad_(False)
    hold_frozen_in_bf16(norm, exact=False)
    assert [p.dtype for p in norm.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2
    dora = get_peft_model(llama(1), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))  # type: ignore[arg-type]
    hold_frozen_in_bf16(dora, exact=False)
    kinds = {name: p.dtype for name, p in dora.named_parameters() if "q_proj.base_layer" in name}
    assert set(kinds.values()) == {torch.float32}


def test_a_model_without_memory_gets_the_types_that_it_will_have() -> None:
    with torch.device("meta"):
        model = llama_with_lora()
    hold_frozen_in_bf16(model, exact=True)
    assert {p.dtype for name, p in model.named_parameters() if "base_layer" in name} == {torch.bfloat16}


def test_what_is_saved_is_the_starts_own_and_what_moved_is_seen() -> None:
    start = bert_with_a_head()
    trained = copy.deepcopy(start)
    hold_frozen_in_bf16(trained, exact=False)
    weights = as_started(trained.state_dict(), start)
    assert all(torch.equal(weights[name], tensor) for name, tensor in start.state_dict().items())
    with torch.no_grad():
        trained.bert.pooler.dense.weight[0, 0] += 1.0
    moved = as_started(trained.state_dict(), start)["bert.pooler.dense.weight"]
    assert moved.dtype == torch.float32
    assert not torch.equal(moved, start.state_dict()["bert.pooler.dense.weight"])
