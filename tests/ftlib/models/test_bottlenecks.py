"""Bottleneck adapters: where they are, by hand, and what their folder is put over."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import erf, softmax
from torch import nn
from transformers import BertConfig, BertModel, GPTNeoXConfig, GPTNeoXModel, LlamaConfig, LlamaModel

from ftlib.errors import ModelError
from ftlib.models.bottlenecks import Bottleneck, insert, own_names, put_bottlenecks_over, write_bottlenecks

HIDDEN, WIDTH, LAYERS, INNER = 16, 3, 2, 24
SIZES: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": INNER,
}
IDS = torch.randint(3, 30, (2, 7), generator=torch.Generator().manual_seed(0))


def bert() -> BertModel:
    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES)).eval()


def llama() -> LlamaModel:
    torch.manual_seed(0)
    return LlamaModel(LlamaConfig(**SIZES, num_key_value_heads=1)).eval()


def with_bottlenecks(model: Any, *, drawn_wide: bool = True) -> Any:
    """Of matrices as small as they begin nobody would see that they are missing."""
    insert(model, WIDTH, "gelu", ("pooler",), None)
    for module in model.modules():
        if drawn_wide and isinstance(module, Bottleneck):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.7)
    return model


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def test_a_layer_of_bert_by_hand_in_numpy() -> None:
    """h + U gelu(D h + b) + b' of each sublayer's output, before the residual sum and its norm."""
    model = with_bottlenecks(bert())
    layer = model.encoder.layer[0]
    w = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}

    def linear(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        off = x - x.mean(-1, keepdims=True)
        return off / np.sqrt((off**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def bottleneck(h: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return h + linear(gelu(linear(h, f"{name}.dropout.bottleneck.down")), f"{name}.dropout.bottleneck.up")

    x = torch.randn(2, 7, HIDDEN, generator=torch.Generator().manual_seed(1))
    rows = x.double().numpy()
    q, k, v = (
        linear(rows, f"attention.self.{one}").reshape(2, 7, 2, 8).transpose(0, 2, 1, 3)
        for one in ("query", "key", "value")
    )
    attended = (softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(8), -1) @ v).transpose(0, 2, 1, 3).reshape(2, 7, HIDDEN)
    inner = bottleneck(linear(attended, "attention.output.dense"), "attention.output")
    middle = norm(rows + inner, "attention.output.LayerNorm")
    outer = bottleneck(linear(gelu(linear(middle, "intermediate.dense")), "output.dense"), "output")
    expected = norm(middle + outer, "output.LayerNorm")
    with torch.no_grad():
        said = layer(x)
    said = said[0] if isinstance(said, tuple) else said
    np.testing.assert_allclose(said.numpy(), expected, atol=2e-6)


def test_a_layer_of_llama_adds_what_each_bottleneck_says_to_what_went_in() -> None:
    plain = llama()
    model = with_bottlenecks(copy.deepcopy(plain))
    own, layer = plain.layers[0], model.layers[0]
    x = torch.randn(2, 7, HIDDEN, generator=torch.Generator().manual_seed(1))
    places = plain.rotary_emb(x, torch.arange(7)[None])
    with torch.no_grad():
        attended = own.self_attn(own.input_layernorm(x), position_embeddings=places, attention_mask=None)[0]
        middle = x + layer.self_attn.o_proj.bottleneck(attended)
        expected = middle + layer.mlp.down_proj.bottleneck(own.mlp(own.post_attention_layernorm(middle)))
        said = layer(x, position_embeddings=places, attention_mask=None)
    said = said[0] if isinstance(said, tuple) else said
    torch.testing.assert_close(said, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("make", [bert, llama])
def test_without_its_way_up_a_model_is_the_base_bit_for_bit(make: Any) -> None:
    plain = make()
    model = with_bottlenecks(copy.deepcopy(plain))
    assert not torch.equal(model(input_ids=IDS)[0], plain(input_ids=IDS)[0])
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.up.weight)
            nn.init.zeros_(module.up.bias)
    assert torch.equal(model(input_ids=IDS)[0], plain(input_ids=IDS)[0])


def test_there_are_as_many_as_the_paper_counts_drawn_as_its_authors_do() -> None:
    model = with_bottlenecks(bert(), drawn_wide=False)
    sizes = {name: p.numel() for name, p in model.named_parameters() if name in own_names(model)}
    inside = sum(size for name, size in sizes.items() if ".bottleneck." in name)
    assert inside == 2 * LAYERS * (2 * WIDTH * HIDDEN + HIDDEN + WIDTH)
    norms = sum(size for name, size in sizes.items() if "LayerNorm" in name)
    assert norms == (2 * LAYERS + 1) * 2 * HIDDEN
    assert sum(sizes.values()) == inside + norms + HIDDEN * HIDDEN + HIDDEN  # and the pooler, as a head
    matrices = torch.cat([p.flatten() for n, p in model.named_parameters() if n.endswith(("down.weight", "up.weight"))])
    assert matrices.abs().max() <= 0.02
    assert matrices.std().item() == pytest.approx(0.01 * 0.8796, rel=0.1)  # of a normal cut at two deviations


def test_a_folder_is_put_over_its_base_and_over_no_other(tmp_path: Path) -> None:
    model = with_bottlenecks(bert())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in own_names(model):
                parameter.add_(0.1)
    write_bottlenecks(model, tmp_path)
    assert torch.equal(put_bottlenecks_over(bert(), tmp_path)(input_ids=IDS)[0], model(input_ids=IDS)[0])
    with pytest.raises(ModelError, match=r"does not fit its base: .* give the model that it was trained over"):
        put_bottlenecks_over(BertModel(BertConfig(**{**SIZES, "num_hidden_layers": 1})), tmp_path)
    with pytest.raises(ModelError, match=r"of shape \[16\], its base \[32\]"):
        put_bottlenecks_over(BertModel(BertConfig(**{**SIZES, "hidden_size": 32})), tmp_path)
    settings = tmp_path / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "width": "wide"}))
    with pytest.raises(ModelError, match="says width 'wide' and activation 'gelu', which no bottleneck has"):
        put_bottlenecks_over(bert(), tmp_path)


def test_a_family_whose_sublayers_are_not_known_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"of a 'gpt_neox' model ends, .*; there are bert, .*: use lora"):
        insert(GPTNeoXModel(GPTNeoXConfig(**SIZES)), WIDTH, "gelu", (), None)
