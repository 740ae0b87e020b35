"""Fields of a config against what stock transformers computes: one tensor file, read under two configs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

from ftlib.errors import ModelError
from ftlib.merging.adapters import stands_elsewhere
from ftlib.merging.methods import Average, Lerp
from ftlib.merging.plan import Input, plan_merge
from ftlib.models.adapter import WEIGHTS, read_adapter
from ftlib.models.config_meanings import compare_configs
from ftlib.testing import LABELS, tiny_classifier

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
DECODER = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {**SIZES, "num_attention_heads": 4, "max_position_embeddings": 64},
    "llama": DECODER,
    "mistral": {**DECODER, "sliding_window": 4},
    "gemma2": {**DECODER, "sliding_window": 4, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 5.0},
    "gpt2": {"vocab_size": 60, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}

REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"num_attention_heads": 2}),
    ("bert", {"hidden_act": "relu"}),
    ("bert", {"is_decoder": True}),
    ("llama", {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 4}),
    ("llama", {"hidden_act": "gelu"}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"query_pre_attn_scalar": 64}),
    ("gemma2", {"layer_types": ["full_attention", "full_attention"]}),
    ("gpt2", {"activation_function": "relu"}),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", {"scale_attn_weights": False}),
]
WARNED: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"layer_norm_eps": 1e-2}),
    ("llama", {"rms_norm_eps": 1e-2}),
    ("llama", {"rope_theta": 100.0}),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("mistral", {"sliding_window": 2}),
]
SAID_NOTHING_OF: list[tuple[str, dict[str, Any]]] = [
    ("bert", {"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5, "classifier_dropout": 0.2}),
    ("bert", {"transformers_version": "4.1", "_name_or_path": "x/y", "torch_dtype": "float16"}),
    ("bert", {"use_cache": False, "initializer_range": 1.0, "finetuning_task": "mnli"}),
    ("llama", {"bos_token_id": 5, "eos_token_id": [3, 4], "temperature": 0.3, "pretraining_tp": 2}),
    ("bert", {"tie_word_embeddings": True, "position_embedding_type": "absolute"}),  # the defaults, written out
]


@pytest.fixture(scope="module")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bodies")
    for kind, fields in KINDS.items():
        torch.manual_seed(0)
        config: Any = transformers.AutoConfig.for_model(kind, **fields)
        model: Any = transformers.AutoModel.from_config(config, attn_implementation="eager")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(folder / kind)
    return {kind: folder / kind for kind in KINDS}


def changed(body: Path, target: Path, fields: dict[str, Any]) -> Path:
    shutil.copytree(body, target)
    config = json.loads((target / "config.json").read_bytes())
    if {"rope_theta", "rope_scaling"} & {*fields}:  # as older checkpoints write what newer ones nest
        config.pop("rope_parameters", None)
    (target / "config.json").write_text(json.dumps(config | fields))
    return target


def said(folder: Path) -> torch.Tensor:
    model: Any = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = torch.arange(24).reshape(2, 12) % 50 + 5
    with torch.inference_mode():
        return model(input_ids=ids).last_hidden_state


@pytest.mark.parametrize(("kind", "fields"), REFUSED)
def test_a_field_that_gives_equal_tensors_another_meaning_is_refused(
    bodies: dict[str, Path], tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    other = changed(bodies[kind], tmp_path / "b", fields)
    assert not torch.allclose(said(bodies[kind]), said(other), atol=1e-3)
    for pair in ((bodies[kind], other), (other, bodies[kind])):
        with pytest.raises(ModelError) as caught:
            plan_merge(Lerp(alpha=0.5), [Input("a", pair[0]), Input("b", pair[1])], reference=1)
        assert all(f"{field} is " in str(caught.value) for field in fields)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("kind", "fields"), WARNED)
def test_a_field_that_shifts_them_is_said(
    bodies: dict[str, Path], tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    other = changed(bodies[kind], tmp_path / "b", fields)
    assert not torch.allclose(said(bodies[kind]), said(other), atol=1e-3)
    plan = plan_merge(Average(ingredients=(0, 1)), [Input("a", bodies[kind]), Input("b", other)], reference=0)
    told = [line for line in plan.warnings if line.startswith("config: ")]
    assert told
    assert all("in 'a' and" in line and line.endswith("the result has 'a''s") for line in told)
    assert any(next(iter(fields)).partition("_")[0] in line for line in told)


@pytest.mark.parametrize(("kind", "fields"), SAID_NOTHING_OF)
def test_a_field_that_changes_nothing_is_no_matter(
    bodies: dict[str, Path], tmp_path: Path, kind: str, fields: dict[str, Any]
) -> None:
    other = changed(bodies[kind], tmp_path / "b", fields)
    assert torch.equal(said(bodies[kind]), said(other))
    assert compare_configs(bodies[kind], other, ("a", "b"), "b") == []


def test_a_field_that_transformers_has_forgotten_still_means_something(bodies: dict[str, Path], tmp_path: Path) -> None:
    other = changed(bodies["bert"], tmp_path / "b", {"position_embedding_type": "relative_key"})
    with pytest.raises(ModelError, match="position_embedding_type is 'absolute' in 'a' and 'relative_key' in 'b'"):
        compare_configs(bodies["bert"], other, ("a", "b"), "b")


def classifier(folder: Path, **fields: Any) -> Path:
    config = json.loads((tiny_classifier(folder, LABELS) / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def test_the_problem_is_what_transformers_takes_it_for(tmp_path: Path) -> None:
    kinds = {
        "unset": {},
        "single": {"problem_type": "single_label_classification"},
        "multi": {"problem_type": "multi_label_classification"},
    }
    at = {name: classifier(tmp_path / name, **fields) for name, fields in kinds.items()}
    assert compare_configs(at["unset"], at["single"], ("a", "b"), "b") == []  # three labels: one of them
    with pytest.raises(ModelError, match="problem_type is unset in 'a' and 'multi_label_classification' in 'b'"):
        compare_configs(at["unset"], at["multi"], ("a", "b"), "b")
    with pytest.raises(ModelError, match="problem_type is 'multi_label_classification' in 'a'"):
        compare_configs(at["multi"], at["single"], ("a", "b"), "b")


def test_another_head_of_the_same_shape_is_another_model(tmp_path: Path) -> None:
    """BERT's heads for texts and for words are both `classifier`."""
    here, there = classifier(tmp_path / "a"), classifier(tmp_path / "b", architectures=["BertForTokenClassification"])
    with pytest.raises(ModelError, match="architectures is "):
        compare_configs(here, there, ("a", "b"), "b")


def test_nested_configs_and_architectures_nobody_knows(tmp_path: Path) -> None:
    at = {}
    for name, heads in (("a", 4), ("b", 8)):
        at[name] = tmp_path / name
        at[name].mkdir()
        config = {"model_type": "newer", "note": name, "text_config": {"num_attention_heads": heads, "dropout": heads}}
        (at[name] / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"text_config\.num_attention_heads is 4 in 'a' and 8 in 'b'") as caught:
        compare_configs(at["a"], at["b"], ("a", "b"), "b")
    assert "note" not in str(caught.value)  # of what nobody reads, it is only said that it differs
    (at["b"] / "config.json").write_text((at["a"] / "config.json").read_text().replace('"a"', '"b"'))
    assert compare_configs(at["a"], at["b"], ("a", "b"), "b") == [
        "config: note is 'a' in 'a' and 'b' in 'b'; the result has 'b''s"
    ]


def adapter(folder: Path, base: Path, rank: int = 2, **config: Any) -> Path:
    folder.mkdir()
    content = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(base), **config}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    name = "base_model.model.bert.encoder.layer.0.attention.self.query"
    tensors = {f"{name}.lora_A.weight": torch.ones(rank, 32), f"{name}.lora_B.weight": torch.ones(32, rank)}
    save_file(tensors, folder / WEIGHTS)
    return folder


def test_an_adapter_over_a_base_of_another_meaning(tmp_path: Path) -> None:
    base = classifier(tmp_path / "base")
    made = adapter(tmp_path / "adapter", base)
    assert stands_elsewhere(made, base) == []
    with pytest.raises(
        ModelError, match=r"num_attention_heads is 4 .*give the model that the adapter was trained over"
    ):
        stands_elsewhere(made, classifier(tmp_path / "other", num_attention_heads=2))
    (over, shifted) = stands_elsewhere(made, classifier(tmp_path / "close", layer_norm_eps=1e-5))
    assert "is your word" in over
    assert "layer_norm_eps is 1e-12" in shifted


@pytest.mark.parametrize(
    ("config", "rank", "message"),
    [
        ({"r": 8}, 2, "says rank 8, but .* has rank 2"),
        ({"r": "2"}, 2, "r must be a number, got '2'"),
        ({"r": 0}, 2, "r must be a number, got 0"),
        ({"lora_alpha": None}, 2, "lora_alpha must be a number, got None"),
        ({"alpha_pattern": {"query": "x"}}, 2, "lora_alpha must be a number, got 'x'"),
        ({"rank_pattern": {"query": 4}}, 3, "says rank 2, 4, but"),
    ],
)
def test_an_adapter_whose_scale_is_not_what_it_was_trained_with(
    tmp_path: Path, config: dict[str, Any], rank: int, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        read_adapter(adapter(tmp_path / "adapter", tmp_path, rank, **config))


@pytest.mark.parametrize("data", [b"", b"\xff" * 8, b"version https://git-lfs.github.com/spec/v1\n"])
def test_an_adapter_of_damaged_weights(tmp_path: Path, data: bytes) -> None:
    made = adapter(tmp_path / "adapter", tmp_path)
    (made / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors is"):
        read_adapter(made)
