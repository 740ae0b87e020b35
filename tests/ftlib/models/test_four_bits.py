"""Four bits by the paper's formula in numpy, by bitsandbytes' own functions, and by its own layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes import functional
from bitsandbytes.nn import Linear4bit, Params4bit
from safetensors.torch import save_file
from torch import nn

from ftlib.errors import ModelError
from ftlib.models import four_bits
from ftlib.models.checkpoint import Quantization
from ftlib.models.four_bits import FourBitLinear, FourBits, hold_in_four_bits, layers_to_quantize, written

# Dettmers et al. 2023, appendix E, to the digits that it prints.
NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
        *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
        *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    dtype=np.float32,
)


def matrix(rows: int = 48, width: int = 128) -> torch.Tensor:
    return 0.02 * torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_a_block_is_rounded_to_the_nearest_of_sixteen_quantiles_times_its_largest() -> None:
    block = matrix(1, 64)
    largest = np.abs(block.numpy()).max()
    nearest = NF4[np.abs(block.numpy()[0] / largest - NF4[:, None]).argmin(0)]
    np.testing.assert_array_equal(FourBits.of(block, "nf4").values().numpy()[0], nearest * largest)


@pytest.mark.parametrize("quantization", ["nf4", "nf4_double"])
def test_what_four_bits_stand_for_is_what_bitsandbytes_says(quantization: Quantization) -> None:
    weight, double = matrix(), quantization == "nf4_double"
    ours = FourBits.of(weight, quantization)
    codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=double, blocksize=64)
    assert torch.equal(ours.parts["codes"], codes.view(-1))
    assert torch.equal(ours.values(), functional.dequantize_4bit(codes, state))
    assert torch.equal(ours.values(torch.bfloat16), ours.values().bfloat16())
    bits = 8 * sum(part.nbytes for part in ours.parts.values()) / weight.numel()
    assert bits == pytest.approx(4.127 if double else 4.5, abs=0.02)  # the paper's section 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_layer_in_four_bits_computes_what_its_values_do_there_and_back(precision: str) -> None:
    torch.manual_seed(0)
    whole = nn.Linear(128, 48)
    x = torch.randn(5, 7, 128)
    rounded = FourBits.of(whole.weight.detach(), "nf4_double")
    held = FourBitLinear(whole, rounded)
    stock = Linear4bit(128, 48, compute_dtype=torch.float32, quant_type="nf4")
    stock.weight = Params4bit(whole.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True)
    stock.bias, stock = nn.Parameter(whole.bias.detach().clone()), stock.to("cpu")
    with torch.no_grad():
        whole.weight.copy_(rounded.values())
    said: list[torch.Tensor] = []
    for layer in (held, whole, *([stock] if precision == "fp32" else [])):
        own = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            out = layer(own)
        out.square().sum().backward()
        said += [out.detach(), own.grad] if own.grad is not None else []
    for i in (2, 4)[: len(said) // 2 - 1]:
        assert torch.equal(said[0], said[i])
        assert torch.equal(said[1], said[i + 1])
    assert not held.state_dict().keys() - {"bias"}


class Body(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.words = nn.Embedding(10, width)
        self.body = nn.Sequential(nn.Linear(width, 64), nn.LayerNorm(64), nn.Linear(64, 10))
        self.body[2].weight = nn.Parameter(self.words.weight[:, :64].detach()) if width > 64 else self.words.weight
        self.head = nn.Linear(64, 2)


def test_heads_embeddings_norms_and_shared_weights_stay_whole(tmp_path: Path) -> None:
    model = Body()
    layers = layers_to_quantize(model, ["head"])
    assert [*layers] == ["body.0"]
    rounded = {name: FourBits.of(layer.weight.detach(), "nf4") for name, layer in layers.items()}
    file = tmp_path / four_bits.FILE
    save_file(written(rounded), file)
    hold_in_four_bits(model.requires_grad_(False), ["head"], "nf4", file)
    assert [n for n, m in model.named_modules() if isinstance(m, FourBitLinear)] == ["body.0"]
    assert torch.equal(model.body[0].values(), rounded["body.0"].values())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Body(96), r"body.0 reads 96 numbers, no multiple of 64: .*; use lora"),
        (nn.Sequential(nn.Embedding(3, 64)), "Sequential has no linear layer in its body .*; use lora"),
    ],
)
def test_what_cannot_be_held_in_four_bits_is_refused_by_name(model: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        layers_to_quantize(model, ["head"])


def test_without_bitsandbytes_it_says_which_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(four_bits.bitsandbytes.__globals__, "find_spec", lambda _: None)
    with pytest.raises(ModelError, match=r"not installed; pip install 'reglage\[bitsandbytes\]'"):
        FourBits.of(matrix(), "nf4")
