"""What is frozen is held in bf16: half the memory, the same bits of a forward pass, and the start's own when saved."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training.checkpoints.shards import compare
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loops.frozen_bf16 import hold_frozen_in_bf16
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
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


def test_what_is_held_is_compared_with_the_start_in_that_type() -> None:
    start, alone = bert_with_a_head(), Group(rank=0, world_size=1, device=torch.device("cpu"))
    trained = copy.deepcopy(start)
    hold_frozen_in_bf16(trained, exact=False)
    assert all(each.same for each in compare(start, trained, alone).values())
    with torch.no_grad():
        trained.bert.pooler.dense.weight[0, 0] += 1.0
    assert [name for name, each in compare(start, trained, alone).items() if not each.same] == [
        "bert.pooler.dense.weight"
    ]


def test_what_is_solved_for_is_asked_in_fp32(tmp_path: Path) -> None:
    """A probe freezes its whole body, takes no steps, and knows no autocast: `auto` may say bf16 of its phase."""
    rows = tiny_rows(24)
    data = tiny_prepared(tmp_path / "data", {"train": rows})
    model = find_model(ModelRef(path=str(tiny_classifier(tmp_path / "tiny"))))
    start = base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(tmp_path))
    probe = {"name": "probe", "dataset": "d", "objective": {"kind": "classification"}}
    phase = Phase.model_validate({**probe, "tuning": {"kind": "linear_probe"}})
    where = Compute(workers=0, threads=1)
    jobs = {
        precision: TrainJob(start=start, data=data, phase=phase, precision=precision, seed=1, compute=where)
        for precision in ("fp32", "bf16")
    }
    solved = {name: train(job, Workspace(tmp_path / name)).weights for name, job in jobs.items()}
    assert solved["bf16"] == solved["fp32"]
