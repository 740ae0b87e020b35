"""The sampler: stock transformers' greedy answers, exact frequencies of a tiny vocabulary, and seeds a row."""

from __future__ import annotations

import itertools
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GenerationConfig,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from ftlib.errors import ModelError
from ftlib.kinds.sampling import ModelSampler, Sample, Sampler, sample

WORDS = 41
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
    ),
    "gpt2": GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_head=4, n_positions=64, pad_token_id=0),
    "opt": OPTConfig(
        vocab_size=WORDS, hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=64, pad_token_id=0,
    ),
    "bloom": BloomConfig(vocab_size=WORDS, hidden_size=16, n_layer=2, n_head=4, pad_token_id=0),
    "gemma2": Gemma2Config(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, max_position_embeddings=64, sliding_window=4, pad_token_id=0,
    ),
}  # fmt: skip


def made(family: str, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
        for parameter in model.parameters():  # fresh weights say nearly the same everywhere
            parameter.data.mul_(6.0 if parameter.ndim == 2 else 1.0)
    return model


def texts(seed: int, *lengths: int) -> list[torch.Tensor]:
    numbers = np.random.default_rng(seed)
    return [torch.from_numpy(numbers.integers(3, WORDS, length)) for length in lengths]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_most_probable_tokens_are_stock_generates_of_each_prompt_alone(family: str) -> None:
    model, prompts = made(family), texts(1, 3, 9, 1, 6)
    free = sample(model, prompts, seeds=[0] * 4, max_new_tokens=8, temperature=0.0, ends=())
    ends = {free[0].tokens[2], free[1].tokens[4]}
    got = sample(model, prompts, seeds=[0] * 4, max_new_tokens=8, temperature=0.0, ends=ends)
    settings = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=sorted(ends), pad_token_id=0)
    for prompt, mine in zip(prompts, got, strict=True):
        whole = model.generate(prompt[None], attention_mask=torch.ones_like(prompt[None]), generation_config=settings)
        assert [*mine.tokens] == whole[0, len(prompt) :].tolist()
        assert mine.ended == (mine.tokens[-1] in ends)
        assert mine.answer == (mine.tokens[:-1] if mine.ended else mine.tokens)
    assert {one.ended for one in got} >= {True}


def test_draws_have_the_frequencies_of_every_text_of_a_tiny_vocabulary() -> None:
    config = LlamaConfig(
        vocab_size=3, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(3)
    model, prompt, temperature = AutoModelForCausalLM.from_config(config).eval(), torch.tensor([1, 2]), 0.7
    model.lm_head.weight.data.mul_(30)
    expected: dict[tuple[int, ...], float] = {}
    for text in itertools.product(range(3), repeat=3):  # 2 ends a text
        end = text.index(2) + 1 if 2 in text else 3
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt.tolist(), *text]])).logits[0, 1:-1] / temperature
        terms = logits.log_softmax(-1).gather(1, torch.tensor(text)[:, None])[:, 0]
        expected[text[:end]] = float(terms[:end].sum().exp())
    assert sum(expected.values()) == pytest.approx(1.0, abs=1e-5)
    count = 6000
    drawn = sample(model, [prompt] * count, seeds=range(count), max_new_tokens=3, temperature=temperature, ends={2})
    seen = Counter(one.tokens for one in drawn)
    assert set(seen) <= set(expected)
    statistic = sum((seen[text] - count * share) ** 2 / (count * share) for text, share in expected.items())
    assert statistic < 40  # chi-squared of 14 degrees of freedom: beyond is 1 of 4,000
    for one in drawn[:20]:
        assert np.exp(sum(one.log_probs)) == pytest.approx(expected[one.tokens], rel=1e-4)


def test_what_a_row_draws_depends_on_its_seed_and_on_nothing_else() -> None:
    model, prompts = made("llama"), texts(2, 4, 11, 2, 7, 7)
    draw = partial(sample, model, max_new_tokens=10, temperature=1.3, ends={5, 9})
    seeds = [7, 8, 9, 10, 10]
    together = draw(prompts, seeds=seeds)
    alone = [draw([prompt], seeds=[seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    backwards = draw(prompts[::-1], seeds=seeds[::-1])[::-1]
    for one, other, third in zip(together, alone, backwards, strict=True):
        assert one.tokens == other.tokens == third.tokens
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)
    assert len({one.tokens for one in draw([prompts[0]] * 6, seeds=range(6))}) > 3
    (longer,) = draw([prompts[0]], seeds=[7], max_new_tokens=14, ends=())
    (shorter,) = draw([prompts[0]], seeds=[7], max_new_tokens=5, ends=())
    assert longer.tokens[:5] == shorter.tokens


def test_ranks_call_a_sharded_model_equally_often() -> None:
    """What is told of other ranks decides how long the model is called."""
    model, calls = made("gpt2"), list[bool]()

    def others_go_on(left: bool) -> bool:
        calls.append(left)
        return len(calls) < 6

    first = sample(model, texts(1, 4), seeds=[0], max_new_tokens=9, temperature=0.0, ends=())[0].tokens[0]
    (got,) = sample(
        model, texts(1, 4), seeds=[0], max_new_tokens=9, temperature=0.0, ends={first}, goes_on=others_go_on
    )
    assert got.tokens == (first,)
    assert got.ended
    assert calls == [False] * 6


def test_what_cannot_be_written_is_refused_by_name() -> None:
    model = made("gpt2")
    own = ModelSampler(model)
    assert isinstance(own, Sampler)
    with pytest.raises(ModelError, match="60 tokens and 9 new ones are more than the 64 positions of GPT2LMHeadModel"):
        own(texts(1, 60), seeds=[0], max_new_tokens=9, ends=())
    with pytest.raises(ModelError, match="no token to go on from"):
        own([torch.zeros(0, dtype=torch.long)], seeds=[0], max_new_tokens=9, ends=())
    with pytest.raises(ValueError, match="1 prompts and 2 seeds"):
        own(texts(1, 6), seeds=[0, 1], max_new_tokens=9, ends=())
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ModelError, match="T5ForConditionalGeneration is no causal language model"):
        sample(t5.eval(), texts(1, 3), seeds=[0], max_new_tokens=2, ends=())
    assert own([], seeds=[], max_new_tokens=2, ends=()) == []
    assert own(texts(1, 3), seeds=[0], max_new_tokens=0, ends=()) == [Sample((), (), ended=False)]
