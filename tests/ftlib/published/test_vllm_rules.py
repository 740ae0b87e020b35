"""An adapter of ours, held against what vLLM's loader asks of one, read in its source; vLLM itself is not here.

It takes `r`, `lora_alpha` and `target_modules` from the config, refuses `modules_to_save` and DoRA, drops the prefix
`base_model.model.` of a tensor's name, wants `lora_A.weight` or `lora_B.weight` behind the module's, and refuses
modules that are none of the model's linear layers. A is rank by inputs, B outputs by rank.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ftlib.kinds.loading import load
from ftlib.models.checkpoint import model_in
from ftlib.testing import tiny_adapter, tiny_checkpoint

NAME = re.compile(r"base_model\.model\.(.+)\.lora_(A|B)\.weight")
RANK = 4


def test_an_adapter_holds_the_rules_of_vllms_loader_and_opens_in_stock_peft(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "base", labels=())
    adapter = tiny_adapter(tmp_path / "adapter", start, rank=RANK)
    folder = model_in(tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == RANK
    assert config["lora_alpha"] > 0
    assert not config["modules_to_save"]
    assert not config["use_dora"]
    assert config["bias"] == "none"

    base = AutoModelForCausalLM.from_pretrained(model_in(tmp_path / "base"))
    tensors = load_file(folder / "adapter_model.safetensors")
    pairs: dict[str, set[str]] = {}
    for name, tensor in tensors.items():
        match = NAME.fullmatch(name)
        assert match, name
        module = base.get_submodule(match[1])
        fan_out, fan_in = (module.out_features, module.in_features)
        assert tuple(tensor.shape) == ((RANK, fan_in) if match[2] == "A" else (fan_out, RANK))
        assert match[1].rsplit(".", 1)[-1] in config["target_modules"]
        pairs.setdefault(match[1], set()).add(match[2])
    assert pairs
    assert all(sides == {"A", "B"} for sides in pairs.values())

    ours = load(adapter, "tokens")
    stock = PeftModel.from_pretrained(base, folder).eval()
    ids = torch.arange(1, 9)[None]
    with torch.inference_mode():
        torch.testing.assert_close(stock(input_ids=ids).logits, ours.eval()(input_ids=ids).logits)
