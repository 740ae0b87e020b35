"""Adapters moved along the line and merged, against peft itself and against numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ftlib.errors import ModelError
from ftlib.merging.adapters import write_merged, write_scaled
from ftlib.merging.methods import Lerp
from ftlib.models.adapter import WEIGHTS, read_adapter
from ftlib.models.folder import ADAPTER_CONFIG, is_adapter
from ftlib.testing import tiny_causal_lm, tiny_classifier

IDS = torch.arange(5, 65).reshape(4, 15)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def tuned(folder: Path, base: Path, **config: Any) -> Path:
    """Write an adapter whose every trained parameter was moved at random, as stock peft saves it."""
    classifies = "ForSequence" in (base / "config.json").read_text()
    model: Any = (AutoModelForSequenceClassification if classifies else AutoModelForCausalLM).from_pretrained(base)
    named = {"r": 4, "lora_alpha": 8, "task_type": "SEQ_CLS" if classifies else "CAUSAL_LM"}
    targets = ["query", "value"] if classifies else ["q_proj", "v_proj"]
    wrapped: Any = peft.get_peft_model(model, peft.LoraConfig(**{"target_modules": targets, **named, **config}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder)
    return folder


def classifier(folder: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(folder)


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "head": {"modules_to_save": ["classifier"]},
    "biases": {"bias": "all"},
    "patterns": {"alpha_pattern": {"query": 3}, "rank_pattern": {"value": 2}},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("base") / "model", ("a", "b", "c"))


@pytest.mark.parametrize("name", CONFIGS)
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(alpha=st.floats(0.0, 1.0))
def test_a_scaled_adapter_is_the_mix_of_base_and_merged_weights(
    name: str, alpha: float, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scaled")
    adapter = tuned(folder / "adapter", base, **CONFIGS[name])
    write_scaled(adapter, base, Lerp(alpha=alpha), folder / "out")
    theirs = logits(peft.PeftModel.from_pretrained(classifier(base), folder / "out"))
    merged: nn.Module = peft.PeftModel.from_pretrained(classifier(base), adapter).merge_and_unload()
    start, mixed = classifier(base), classifier(base)
    ends = start.state_dict(), merged.state_dict()
    mixed.load_state_dict({k: (1 - alpha) * ends[0][k] + alpha * v for k, v in ends[1].items()})
    assert torch.allclose(theirs, logits(mixed), atol=2e-5)


def test_low_rank_matrices_keep_their_bytes_and_heads_are_mixed(base: Path, tmp_path: Path) -> None:
    adapter = tuned(tmp_path / "adapter", base, modules_to_save=["classifier"])
    mixed = write_scaled(adapter, base, Lerp(alpha=0.25), tmp_path / "out", ("owner/name", "abc"))
    before, after = load_file(adapter / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys()
    assert sorted(mixed) == sorted(name for name in before if "classifier" in name)
    start = load_file(base / "model.safetensors")
    for name, value in after.items():
        if name in mixed:
            theta0 = start[name.removeprefix("base_model.model.")].astype(np.float64)
            np.testing.assert_allclose(value, 0.75 * theta0 + 0.25 * before[name], rtol=1e-6, atol=1e-8)
        else:
            assert value.tobytes() == before[name].tobytes()
    config = json.loads((tmp_path / "out" / ADAPTER_CONFIG).read_text())
    assert (config["lora_alpha"], config["base_model_name_or_path"], config["revision"]) == (2.0, "owner/name", "abc")


def test_at_alpha_one_any_adapter_is_itself(base: Path, tmp_path: Path) -> None:
    adapter = tuned(tmp_path / "adapter", base, use_dora=True)
    assert write_scaled(adapter, base, Lerp(alpha=1.0), tmp_path / "out") == []
    before, after = load_file(adapter / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert {k: v.tobytes() for k, v in before.items()} == {k: v.tobytes() for k, v in after.items()}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "olora"}, "init"),
    ],
)
def test_what_scaling_would_get_wrong_is_refused(
    config: dict[str, Any], named: str, base: Path, tmp_path: Path
) -> None:
    adapter = tuned(tmp_path / "adapter", base, **config)
    with pytest.raises(ModelError, match=rf"cannot be scaled \({named}.*write merged weights instead"):
        write_scaled(adapter, base, Lerp(alpha=0.5), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("config", [{}, {"use_dora": True}, {"modules_to_save": ["classifier"]}])
def test_merged_weights_are_what_peft_runs(config: dict[str, Any], base: Path, tmp_path: Path) -> None:
    adapter = tuned(tmp_path / "adapter", base, **config)
    write_merged(adapter, base, tmp_path / "out")
    theirs = logits(peft.PeftModel.from_pretrained(classifier(base), adapter))
    assert torch.allclose(theirs, logits(classifier(tmp_path / "out")), atol=2e-5)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == load_file(base / "model.safetensors").keys()
    assert classifier(tmp_path / "out").config.id2label == {0: "a", 1: "b", 2: "c"}


def test_merged_weights_have_the_bases_dtype_rounded_once(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(tiny_causal_lm(tmp_path / "fp32")).to(torch.bfloat16).save_pretrained(
        tmp_path / "base"
    )
    for path in (tmp_path / "fp32").glob("*token*"):
        (tmp_path / "base" / path.name).write_bytes(path.read_bytes())
    adapter = tuned(tmp_path / "adapter", tmp_path / "base", task_type=None)
    write_merged(adapter, tmp_path / "base", tmp_path / "out")
    wide: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    merged: nn.Module = peft.PeftModel.from_pretrained(wide, adapter).merge_and_unload()
    got: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert got.dtype == torch.bfloat16
    for name, value in merged.state_dict().items():
        assert torch.equal(got.state_dict()[name], value.to(torch.bfloat16)), name


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / ADAPTER_CONFIG).write_text("{"), "is not JSON"),
        (lambda f: (f / ADAPTER_CONFIG).write_text("[]"), "names no peft_type"),
        (lambda f: (f / ADAPTER_CONFIG).unlink(), "has no adapter_config.json"),
        (lambda f: (f / WEIGHTS).unlink(), "has no adapter_model.safetensors"),
        (lambda f: (f / WEIGHTS).rename(f / "adapter_model.bin"), "is a pickle and is never opened"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\0" * 40), "is not a safetensors file"),
    ],
)  # fmt: skip
def test_a_damaged_adapter_is_one_line(spoil: Any, message: str, base: Path, tmp_path: Path) -> None:
    adapter = tuned(tmp_path / "adapter", base)
    spoil(adapter)
    with pytest.raises(ModelError, match=message):
        write_scaled(adapter, base, Lerp(alpha=0.5), tmp_path / "out")


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    wide = tiny_classifier(tmp_path / "wide", ("a", "b", "c"), hidden=64)
    adapter = tuned(tmp_path / "adapter", base, modules_to_save=["classifier"])
    with pytest.raises(ModelError, match="give the model that the adapter was trained over"):
        write_scaled(adapter, wide, Lerp(alpha=0.5), tmp_path / "out")
    with pytest.raises(ModelError, match="cannot be put over its base"):
        write_merged(adapter, wide, tmp_path / "out")
    renamed = {name.replace("layer.1", "layer.7"): value for name, value in load_file(adapter / WEIGHTS).items()}
    save_file(renamed, adapter / WEIGHTS)  # peft itself warns of that and merges nothing
    with pytest.raises(ModelError, match=r"tensors are on one side only, among them .*layer"):
        write_merged(adapter, base, tmp_path / "out")
    adapter = tuned(tmp_path / "summary", base, task_type="FEATURE_EXTRACTION")
    assert is_adapter(adapter)
    assert read_adapter(adapter)["task_type"] == "FEATURE_EXTRACTION"
    with pytest.raises(ModelError, match=r"tensors are on one side only, among them .*bert"):
        write_merged(adapter, base, tmp_path / "out")
