"""Rows in one pack are rows alone: loss and gradients in float64, borders by hand, and models that are refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    PreTrainedConfig,
    StableLmConfig,
)

from ftlib.errors import ModelError
from ftlib.kinds import packed_attention
from ftlib.kinds import token_log_probs as logits_in_parts
from ftlib.kinds.batch import UNTAUGHT
from ftlib.kinds.collate import Collator
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.open_split import open_split
from ftlib.kinds.packing import settle_packing
from ftlib.kinds.split import PreparedSplit
from ftlib.testing import tiny_prepared, tiny_prompts, tiny_tokenizer
from ftlib.training.objectives.completion import Completion

WORDS = len(tiny_tokenizer())
LONGEST = 64
"""Tokens, at least, of the longest row, and so the positions of a model."""
SMALL: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": LONGEST,
    "pad_token_id": 0,
}
OF_ROWS, OF_MASKS = packed_attention.NAME, "sdpa"
FAMILIES: dict[str, tuple[Callable[[], PreTrainedConfig], str]] = {
    "llama": (lambda: LlamaConfig(**SMALL), OF_ROWS),
    "windows": (lambda: MistralConfig(**SMALL, sliding_window=4), OF_ROWS),
    "positions": (lambda: GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=2, n_positions=LONGEST, n_head=2), OF_ROWS),
    "capped": (lambda: Gemma2Config(**SMALL, head_dim=8, sliding_window=4), "eager"),
    "no_borders": (lambda: StableLmConfig(**SMALL), OF_MASKS),
}  # fmt: skip


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PreparedSplit:
    folder = tmp_path_factory.mktemp("rows")
    rows = [{**row, "prompt": f"{row['prompt']} again" * (i % 3)} for i, row in enumerate(tiny_prompts(12))]
    tiny_prepared(folder, {"train": rows}, kind="completions")
    return open_split(folder / "train.arrow", ())


def made(config: PreTrainedConfig) -> Any:
    torch.manual_seed(0)
    model: nn.Module = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_pack_has_the_loss_and_the_gradients_of_its_rows_alone(
    family: str, in_parts: bool, split: PreparedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack is longer than the model has positions: they begin again with each row."""
    config, way = FAMILIES[family]
    packed, rows = made(config()), np.arange(6)
    alone, collate = copy.deepcopy(packed).double(), Collator.of(packed, width_multiple=7)
    if in_parts:
        monkeypatch.setattr(logits_in_parts, "WHOLE", 0)
        monkeypatch.setattr(logits_in_parts, "PART", 5 * 4 * WORDS)
    settle_packing(packed, split, collate, most=500)
    assert packed.config._attn_implementation == way
    packed.double()
    batch = split.pack(rows, collate)
    assert batch.inputs["input_ids"].shape[1] % 7 == 0
    assert batch.inputs["input_ids"].shape[1] > 2 * LONGEST
    ours = Completion().loss(packed, batch)
    ours.total.backward()
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        ids = torch.from_numpy(np.array(split.tokens(row), np.int64))[None]
        labels = torch.where(torch.arange(ids.shape[1]) < ids.shape[1] - split.supervised[row], UNTAUGHT, ids)
        loss = alone(input_ids=ids, labels=labels).loss * split.supervised[row]  # stock transformers' own
        loss.backward()
        total += loss.detach()
    assert ours.count == split.supervised[rows].sum()
    torch.testing.assert_close(ours.total.double(), total, rtol=1e-6, atol=0)
    for (path, one), two in zip(packed.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-6, msg=path)


def test_a_row_of_a_pack_predicts_its_own_tokens_alone(split: PreparedSplit) -> None:
    collate = Collator.of(made(LlamaConfig(**SMALL)), width_multiple=8)
    rows = np.array([4, 0, 9])
    batch = split.pack(rows, collate)
    expected, places, borders = [UNTAUGHT], [0], [0]
    for row in rows:
        tokens = split.tokens(row).tolist()
        taught = min(len(tokens) - 1, int(split.supervised[row]))  # nothing is before the first
        expected += [UNTAUGHT] * (len(tokens) - taught) + tokens[len(tokens) - taught :]
        places += [*range(len(tokens))]
        borders.append(borders[-1] + len(tokens))
    width = -(-borders[-1] // 8) * 8
    padding = width - borders[-1]
    assert padding
    assert next_tokens(batch)[0].tolist() == (expected + [UNTAUGHT] * padding)[2:]
    assert batch.inputs["position_ids"][0].tolist() == [*places[1:], *range(padding)]
    assert batch.borders is not None
    assert batch.borders.dtype == torch.int32
    assert batch.borders.tolist() == [*borders, width]
    assert batch.longest == max(padding, *split.lengths[rows])
    assert len(batch) == 3
    assert batch.inputs.keys() == {"input_ids", "position_ids"}
    exact = split.pack(rows, Collator.of(made(LlamaConfig(**SMALL))))
    assert exact.borders is not None
    assert exact.borders.tolist() == borders
    padded = split.batch(rows, collate)
    assert padded.inputs["input_ids"].shape[1] == -(-max(split.lengths[rows]) // 8) * 8
    assert padded.inputs["attention_mask"].sum(dim=1).tolist() == split.lengths[rows].tolist()


def test_the_rows_that_a_proof_reads_are_the_longest_that_fit(split: PreparedSplit) -> None:
    """A pack of which no two rows fit is proven by nothing, and needs no proof."""
    model = made(MambaConfig(vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, state_size=4))
    shortest = np.sort(split.lengths)
    settle_packing(model, split, Collator.of(model), most=int(shortest[:2].sum()) - 1)
    with pytest.raises(ModelError, match="MambaForCausalLM answers a row otherwise in a pack"):
        settle_packing(model, split, Collator.of(model), most=int(shortest[:2].sum()))


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=WORDS, hidden_size=16, n_layer=2, n_head=2),  # counts positions by its mask
        MambaConfig(vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, state_size=4),  # carries its state on
    ],
    ids=["bloom", "mamba"],
)
def test_a_model_that_mixes_packed_rows_is_refused(config: PreTrainedConfig, split: PreparedSplit) -> None:
    model = made(config)
    with pytest.raises(ModelError, match=r"compute\.pack_tokens: .* nats, where rounding is 0\.0001.* set it to null"):
        settle_packing(model, split, Collator.of(model), most=200)


def test_a_leak_between_rows_is_found(split: PreparedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers does with a mask of ones, or with its cache on."""

    def leaking(module: nn.Module, *tensors: torch.Tensor, **options: Any) -> Any:
        return packed_attention.sdpa_attention_forward(module, *tensors[:3], None, scaling=options["scaling"])

    monkeypatch.setitem(packed_attention.AttentionInterface._global_mapping, OF_ROWS, leaking)
    monkeypatch.setitem(packed_attention.AttentionInterface._global_mapping, OF_MASKS, leaking)
    model = made(LlamaConfig(**SMALL))
    with pytest.raises(ModelError, match="LlamaForCausalLM answers a row otherwise in a pack"):
        settle_packing(model, split, Collator.of(model), most=200)


def by_borders(query: Any, key: Any, value: Any, borders_q: Any, borders_k: Any, longest_q: int, longest_k: int,
               *, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> torch.Tensor:  # fmt: skip
    """What `varlen_attn` says it computes, as one softmax over a mask of all tokens, in float64."""
    assert torch.equal(borders_q, borders_k)
    assert longest_q == longest_k == borders_q.diff().max()
    assert (enable_gqa, window_size[1], borders_q.dtype) == (True, 0, torch.int32)
    groups = query.shape[1] // key.shape[1]
    key, value = (one.double().repeat_interleave(groups, dim=1) for one in (key, value))
    row = torch.repeat_interleave(torch.arange(len(borders_q) - 1), borders_q.diff())
    places = torch.arange(len(row))
    back = places[:, None] - places
    seen = (row[:, None] == row) & (back >= 0) & ((back <= window_size[0]) | (window_size[0] == -1))
    scores = torch.einsum("qhd,khd->hqk", query.double(), key) * scale
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, value).to(query.dtype)


@pytest.mark.parametrize("family", ["llama", "windows"])
def test_the_kernel_is_told_borders_window_and_scale(
    family: str, split: PreparedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its arguments as on a GPU, and its arithmetic by hand; the calls row by row say the same."""
    import torch.nn.attention.varlen

    model = made(FAMILIES[family][0]())
    settle_packing(model, split, Collator.of(model), most=200)
    batch = split.pack(np.array([1, 2, 5]), Collator.of(model, width_multiple=16))
    with torch.no_grad():
        expected = logits_in_parts.token_log_probs(model, batch)
        monkeypatch.setattr(packed_attention, "_has_kernel", lambda *_: True)
        monkeypatch.setattr(torch.nn.attention.varlen, "varlen_attn", by_borders)
        found = logits_in_parts.token_log_probs(model, batch)
    assert not torch.equal(found, expected)  # another way to the same
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_bf16_is_proven_by_what_padding_does_to_it(split: PreparedSplit) -> None:
    model = made(LlamaConfig(**SMALL))
    with torch.autocast("cpu", torch.bfloat16):
        settle_packing(model, split, Collator.of(model), most=200)
    assert model.config._attn_implementation == OF_ROWS
