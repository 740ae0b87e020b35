"""What a language model says of its tokens, whole and in parts: against stock transformers, and by hand in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GraniteConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from ftlib.kinds import token_log_probs as module
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.token_log_probs import nll_sum, token_log_probs, token_logits
from ftlib.training.objectives.completion import Completion

WORDS = 53
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
PLAIN: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SMALL),
    "tied": lambda: LlamaConfig(**SMALL, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=64),
}
MORE: dict[str, Callable[[], PreTrainedConfig]] = {
    "capped": lambda: Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=0.5),
    "scaled": lambda: GraniteConfig(**SMALL, logits_scaling=3.0),
    "multiplied": lambda: CohereConfig(**SMALL, logit_scale=7.0),
}


def made(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    ids, lengths = torch.randint(1, WORDS, (4, 19), generator=draw), torch.tensor([19, 7, 2, 12])
    mask = (torch.arange(19) < lengths[:, None]).long()
    return Batch({"input_ids": ids * mask, "attention_mask": mask}, supervised=torch.tensor([18, 3, 0, 1]))


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """No batch is small enough, and a part has five positions."""
    monkeypatch.setattr(module, "WHOLE", 0)
    monkeypatch.setattr(module, "PART", 5 * 4 * WORDS)


def by_hand(model: Any, asked: Batch) -> np.ndarray:
    """Each row alone, unpadded, in float64."""
    found = np.zeros((4, 18))
    for row, supervised in enumerate(asked.supervised.tolist()):
        length = int(asked.inputs["attention_mask"][row].sum())
        ids = asked.inputs["input_ids"][row, :length]
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0].numpy().astype(np.float64)
        logs = logits - scipy.special.logsumexp(logits, axis=1, keepdims=True)
        for place in range(length - supervised, length):
            found[row, place - 1] = logs[place - 1, ids[place]]
    return found


def largest_logits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every number of positions whose logits are asked for at a time."""
    seen: list[int] = []
    real = torch.nn.functional.cross_entropy

    def watched(logits: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        seen.append(logits.numel() // WORDS)
        return real(logits, *args, **options)

    monkeypatch.setattr(module, "cross_entropy", watched)
    return seen


@pytest.mark.parametrize("name", [*PLAIN, *MORE])
def test_it_is_the_log_softmax_of_every_row_alone(name: str, request: pytest.FixtureRequest) -> None:
    model, asked = made({**PLAIN, **MORE}[name]()), batch()
    expected = by_hand(model, asked)
    for _ in range(2):
        with torch.no_grad():
            for measured in (False, True):
                found = token_log_probs(model, asked, measured=measured)
                np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)
        request.getfixturevalue("in_parts")  # and once more


@pytest.mark.usefixtures("in_parts")
@pytest.mark.parametrize("name", [*PLAIN, *MORE])
def test_only_a_layer_that_is_the_last_is_applied_in_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caps and scales come after it: such a model says its logits itself, however many there are."""
    seen = largest_logits(monkeypatch)
    token_log_probs(made({**PLAIN, **MORE}[name]()), batch())
    assert seen == ([5, 5, 5, 5, 2] if name in PLAIN else [4 * 18])


@pytest.mark.parametrize("name", PLAIN)
def test_parts_have_the_loss_and_the_gradients_of_the_whole(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = made(PLAIN[name]()), batch()
    parts = copy.deepcopy(whole)
    labels = torch.nn.functional.pad(next_tokens(asked), (1, 0), value=UNTAUGHT)
    stock = whole(**asked.inputs, labels=labels).loss * 22
    loss = Completion().loss(whole, asked)
    assert loss.count == 22
    torch.testing.assert_close(loss.total, stock, rtol=1e-6, atol=0)
    loss.total.backward()
    request.getfixturevalue("in_parts")
    ours = Completion().loss(parts, asked)
    torch.testing.assert_close(ours.total, stock, rtol=1e-6, atol=0)
    (ours.total * 0.5).backward()
    for (path, one), two in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert one.grad is not None, path
        torch.testing.assert_close(two.grad * 2, one.grad, rtol=1e-5, atol=1e-6, msg=path)


def test_the_whole_has_the_bits_of_torchs_cross_entropy() -> None:
    """Loss curves of before are loss curves of now."""
    model, asked = made(PLAIN["llama"]()), batch()
    logits = model(**asked.inputs).logits[:, :-1].flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, next_tokens(asked).flatten(), reduction="sum")
    expected.backward()
    before = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    total = nll_sum(token_log_probs(model, asked), asked)
    total.backward()
    assert torch.equal(total, expected)
    assert all(torch.equal(p.grad, grad) for p, grad in zip(model.parameters(), before, strict=True))


@pytest.mark.usefixtures("in_parts")
def test_a_batch_without_a_supervised_token_reaches_every_parameter() -> None:
    """DDP waits for the gradient of each."""
    model, asked = made(PLAIN["llama"]()), batch()
    nothing = Batch(asked.inputs, supervised=torch.zeros(4, dtype=torch.long))
    total = nll_sum(token_log_probs(model, nothing), nothing)
    total.backward()
    assert total.item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.usefixtures("in_parts")
def test_the_layer_of_an_adapter_is_asked_with_what_it_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    config = LoraConfig(r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False)
    torch.manual_seed(3)
    adapted: Any = get_peft_model(made(PLAIN["llama"]()), config).eval()
    seen = largest_logits(monkeypatch)
    with torch.no_grad():
        found = token_log_probs(adapted, batch())
    np.testing.assert_allclose(found.numpy(), by_hand(adapted, batch()), atol=2e-5)
    assert max(seen) == 5


def test_a_nan_on_padding_reaches_nothing() -> None:
    asked = batch()
    logits = torch.zeros(4, 19, WORDS)
    logits[asked.inputs["attention_mask"] == 0] = float("nan")
    found = token_log_probs(lambda **_: type("Out", (), {"logits": logits}), asked)
    assert found.sum(1).tolist() == pytest.approx([-n * np.log(WORDS) for n in asked.supervised.tolist()])


def test_whole_distributions_come_in_parts_too(request: pytest.FixtureRequest) -> None:
    model, asked = made(PLAIN["llama"]()), batch()
    with torch.no_grad():
        whole = torch.cat([*token_logits(model, asked, 4)])
        request.getfixturevalue("in_parts")
        parts = [*token_logits(model, asked, 4)]
    assert [len(part) for part in parts] == [4, 4, 4, 4, 4, 2]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_the_layer_is_its_own_again_after_an_error(in_parts: None) -> None:
    model, asked = made(PLAIN["llama"]()), batch()
    beyond = {**asked.inputs, "input_ids": torch.full((4, 19), WORDS)}
    with pytest.raises(IndexError):
        token_log_probs(model, Batch(beyond, asked.supervised))
    assert model(**asked.inputs).logits.shape[-1] == WORDS
