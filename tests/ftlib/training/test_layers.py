"""Layers that are computed again: the same gradients to the bit, for less memory; and layers that are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from ftlib.errors import RecipeError, TrainingError
from ftlib.kinds.sampling import sample
from ftlib.testing import TextFamily, tiny_text_to_text
from ftlib.training import layers
from ftlib.training.compute import Checkpointing
from ftlib.training.layers import checkpoint_activations, compile_layers, transformer_layers

SIZES: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}


def llama(depth: int = 3, dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_hidden_layers": depth, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, attention_dropout=dropout)).train()


def llama_with_lora() -> nn.Module:
    from peft import LoraConfig, get_peft_model

    return get_peft_model(llama(), LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.2)).train()  # type: ignore[arg-type]


def bert() -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SIZES, num_hidden_layers=3)).train()


def rows() -> dict[str, torch.Tensor]:
    ids = torch.arange(51).reshape(3, 17) % 96 + 1
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def gradients(model: nn.Module, *, bf16: bool = False) -> dict[str, torch.Tensor]:
    """Dropout is on: what is computed again must drop the same."""
    torch.manual_seed(1)
    cache = {"use_cache": False} if model.config.model_type == "llama" else {}  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(**rows(), **cache).logits.float().square().mean()
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **found}


@pytest.mark.parametrize("policy", ["selective", "full", 2])
@pytest.mark.parametrize("make", [llama, llama_with_lora, bert])
def test_gradients_are_the_same_to_the_bit(make: Callable[[], nn.Module], policy: Checkpointing) -> None:
    for bf16 in (False, True):
        expected = gradients(make(), bf16=bf16)
        model = make()
        checkpoint_activations(model, policy)
        found = gradients(model, bf16=bf16)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert model.state_dict().keys() == make().state_dict().keys()


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Count what autograd keeps for the backward pass, but for parameters; each tensor's memory once."""
    kept: dict[int, torch.UntypedStorage] = {}
    total: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield total
    total.append(sum(storage.nbytes() for storage in kept.values()))


def test_less_is_kept_the_more_is_computed_again() -> None:
    """Counted by torch's hooks on what is saved."""
    found: dict[Checkpointing, int] = {}
    for policy in ("none", 2, "full"):
        model = llama(8)
        checkpoint_activations(model, policy)
        with counted_bytes() as total:
            model(**rows(), use_cache=False).logits.sum()
        found[policy] = total[0]
    assert found["full"] < 0.35 * found["none"]
    assert found["full"] < found[2] < 0.75 * found["none"]


def test_a_selective_policy_computes_no_product_again() -> None:
    """Matrix products and attention of a step, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    def flops(policy: Checkpointing) -> int:
        model = llama(4, dropout=0.0)  # with dropout a processor has no fused attention
        checkpoint_activations(model, policy)
        with FlopCounterMode(display=False) as counter:
            gradients(model)
        return counter.get_total_flops()

    assert flops("selective") == flops("none") < flops(3) < flops("full")


def test_without_gradients_nothing_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    checkpoint_activations(model, "full")
    monkeypatch.setattr(layers, "checkpoint", lambda *_, **__: pytest.fail("checkpointed"))
    with torch.no_grad():
        model(**rows())


def test_what_would_add_to_a_cache_twice_has_none() -> None:
    """transformers' decoders keep keys and values unless they are told not to; computed again, they would double."""
    model = llama()
    checkpoint_activations(model, "full")
    said = model(**rows(), use_cache=True)
    assert said.past_key_values is None
    said.logits.sum().backward()


def test_a_model_without_layers_is_refused() -> None:
    for refused in (lambda m: checkpoint_activations(m, "full"), compile_layers):
        with pytest.raises(RecipeError, match=r"compute\.\w+: works layer by layer, and Linear has no list of layers"):
            refused(nn.Linear(2, 2))


def test_a_machine_without_a_compiler_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(RecipeError, match=r"no C\+\+ compiler here, neither of g\+\+, clang\+\+; install one"):
        compile_layers(llama())


def test_what_cannot_be_compiled_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import BackendCompilerFailed

    def fail(*_: Any, **__: Any) -> Any:
        raise BackendCompilerFailed(lambda: None, RuntimeError("no such instruction"), None)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    model = llama()
    compile_layers(model)
    with pytest.raises(TrainingError, match=r"compute\.compile: torch cannot compile LlamaDecoderLayer: .*set it to"):
        model(**rows())


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "full", "selective"])
def test_compiled_layers_learn_the_same_and_are_compiled_once(
    policy: Checkpointing, pytestconfig: pytest.Config
) -> None:
    """More layers than torch would compile one by one before it gives up (8), and more widths."""
    if pytestconfig.getoption("jaxtyping_packages"):
        pytest.skip("what checks shapes is compiled, too, for every layer")
    from torch._dynamo import reset
    from torch._dynamo.utils import counters

    reset()
    counters.clear()
    plain, model = llama(12, dropout=0.0), llama(12, dropout=0.0)
    checkpoint_activations(model, policy)
    compile_layers(model)
    expected, found = gradients(plain), gradients(model)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)
    assert model.state_dict().keys() == plain.state_dict().keys()
    for width in (9, 33, 64):
        model(input_ids=torch.ones(2, width, dtype=torch.long)).logits.sum().backward()
    assert counters["stats"]["unique_graphs"] <= 2
    assert not counters["graph_break"]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_the_layers_of_an_encoder_decoder_are_those_of_both_halves(tmp_path: Path, family: TextFamily) -> None:
    """Blocks of T5 hold lists themselves, one of them longer than the tiny model is deep."""
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tiny_text_to_text(tmp_path, family))
    halves = [model.get_encoder(), model.get_decoder()]
    expected = [layer for half in halves for layer in getattr(half, "block" if family == "t5" else "layers")]
    assert [*map(id, transformer_layers(model))] == [*map(id, expected)]
    assert len(expected) == 4


def test_a_policy_draws_the_same_tokens_under_checkpointing() -> None:
    """A sampler feeds one token at a time and reads what the cache keeps of those before it."""
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=0
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    prompts = [torch.tensor([2, 7, 9, 11]), torch.tensor([2, 8])]
    asked: dict[str, Any] = {"seeds": [3, 4], "max_new_tokens": 6, "temperature": 1.0, "ends": frozenset({1})}
    plain = [one.answer for one in sample(model, prompts, **asked)]
    checkpoint_activations(model, "full")
    assert [one.answer for one in sample(model, prompts, **asked)] == plain
