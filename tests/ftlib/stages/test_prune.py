"""Removing layers: influences against numpy on stock hidden states, and a folder that stock transformers loads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    SmolLM3Config,
    SmolLM3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model, weight_files, weights_digest
from ftlib.models.pruning import PRUNING, Prune, Pruning, stack_of
from ftlib.models.reference import ModelRef
from ftlib.models.shards import write_shards
from ftlib.stages.base import BaseJob, base
from ftlib.stages.prune import PruneJob, prune
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_lm_tokenizer, tiny_prepared, tiny_rows, tiny_tokenizer
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

DEPTH = 5
SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
HERE = Compute.model_validate({"workers": 0, "threads": 1})


def written(folder: Path, model: PreTrainedModel, *, language: bool) -> Path:
    """Write a model whose layers differ in how much they change, with the tokenizer of the tiny ones."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.rand((), generator=draw) * torch.randn(parameter.shape, generator=draw)
    model.save_pretrained(folder)
    (tiny_lm_tokenizer() if language else tiny_tokenizer()).save_pretrained(folder)
    return folder


def llama(**fields: Any) -> LlamaForCausalLM:
    ids = {"vocab_size": len(tiny_lm_tokenizer()), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    return LlamaForCausalLM(LlamaConfig(**SIZES, **ids, num_hidden_layers=DEPTH, max_position_embeddings=128, **fields))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = BertConfig(**SIZES, vocab_size=len(tiny_tokenizer()), num_hidden_layers=DEPTH, pad_token_id=0)
    config.num_labels = 3
    return written(tmp_path_factory.mktemp("bert"), BertForSequenceClassification(config), language=False)


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(60)
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": rows[:48], "validation": rows[48:]})


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("texts"), {"train": tiny_rows(40)}, kind="tokens")


def started(folder: Path, data: PreparedDataset, root: Path) -> Checkpoint:
    found = find_model(ModelRef(path=str(folder)))
    return base(BaseJob(model=found, kind=data.kind, labels=data.labels, seed=1), Workspace(root))


def pruned(start: Checkpoint, data: PreparedDataset, root: Path, **fields: Any) -> tuple[Checkpoint, Pruning]:
    asked = Prune.model_validate({"dataset": "d", "rows": 40, **fields})
    done = prune(PruneJob(start=start, data=data, prune=asked, seed=5, compute=HERE), Workspace(root))
    return done, Pruning.model_validate_json((done.path / PRUNING).read_bytes())


def by_numpy(hidden: Sequence[Sequence[np.ndarray]], number: int) -> tuple[list[float], list[float]]:
    """Return influences and angles of states by row and layer, each tokens x width."""

    def cosines(a: int, b: int) -> np.ndarray:
        pairs = [(row[a].astype(np.float64), row[b].astype(np.float64)) for row in hidden]
        return np.concatenate([(x * y).sum(1) / np.sqrt((x * x).sum(1)) / np.sqrt((y * y).sum(1)) for x, y in pairs])

    depth = len(hidden[0]) - 1
    influences = [float(1 - cosines(i, i + 1).mean()) for i in range(depth)]
    angles = [float(np.arccos(cosines(i, i + number)).mean() / np.pi) for i in range(depth - number + 1)]
    return influences, angles


@pytest.mark.parametrize("choose", ["lowest", pytest.param("block", marks=pytest.mark.slow)])
def test_influences_are_those_of_stock_hidden_states(
    bert: Path, labeled: PreparedDataset, tmp_path: Path, choose: str
) -> None:
    """One unpadded row at a time; BERT has no norm behind its last layer, so its states are all there."""
    start = started(bert, labeled, tmp_path)
    done, measured = pruned(start, labeled, tmp_path, layers=2, choose=choose)
    stock: Any = AutoModelForSequenceClassification.from_pretrained(start.folder).eval()
    split = open_split(labeled.path / "train.arrow", LABELS)
    drawn = sorted(np.random.default_rng(5).permutation(48)[:40].tolist())
    hidden: list[list[np.ndarray]] = []
    for row in drawn:
        ids = torch.tensor(split.tokens(row)).long()[None]
        with torch.no_grad():
            hidden.append([state[0].numpy() for state in stock(input_ids=ids, output_hidden_states=True).hidden_states])
    influences, angles = by_numpy(hidden, 2)
    np.testing.assert_allclose(measured.influences, influences, rtol=1e-4)
    np.testing.assert_allclose(measured.distances, angles, rtol=1e-4)
    assert measured.tokens == sum(len(row[0]) for row in hidden)
    assert all(rate > 0 for rate in measured.rows_per_second)
    least = sorted(np.argsort(influences)[:2].tolist())
    first = int(np.argmin(angles))
    assert list(measured.removed) == (least if choose == "lowest" else [first, first + 1])

    left = [layer for layer in range(DEPTH) if layer not in measured.removed]
    before, after = (load_file(c.folder / "model.safetensors") for c in (start, done))
    renamed = {
        name.replace(f"layer.{old}.", f"layer.{new}."): tensor
        for new, old in enumerate(left)
        for name, tensor in before.items()
        if f"layer.{old}." in name
    } | {name: tensor for name, tensor in before.items() if ".layer." not in name}
    assert renamed.keys() == after.keys()
    assert all(torch.equal(renamed[name], after[name]) for name in after)
    again: Any = AutoModelForSequenceClassification.from_pretrained(done.folder).eval()
    assert again.config.num_hidden_layers == len(again.bert.encoder.layer) == DEPTH - 2
    assert done.parameters == sum(p.numel() for p in again.parameters()) == measured.parameters[1]
    assert (done.parent, done.phase, done.weights) == (start.weights, "prune", weights_digest(done.folder))
    assert done.tokenizer == start.tokenizer


def test_a_layer_that_hands_on_its_input_goes_and_no_logit_changes(texts: PreparedDataset, tmp_path: Path) -> None:
    """Of the weights' shards, of which one goes whole; the last layer's output is taken before the final norm."""
    model = llama(tie_word_embeddings=True)
    folder = written(tmp_path / "llama", model, language=True)
    with torch.no_grad():
        for layer in (1, 4):
            model.model.layers[layer].self_attn.o_proj.weight.zero_()
            model.model.layers[layer].mlp.down_proj.weight.zero_()
    model.save_pretrained(folder)
    start = started(folder, texts, tmp_path)
    write_shards(start.folder, 20_000)
    assert len(weight_files(start.folder)) > DEPTH
    done, measured = pruned(start, texts, tmp_path, layers=2)
    assert measured.removed == (1, 4)
    assert np.array(measured.influences)[[1, 4]] == pytest.approx(0.0, abs=1e-12)
    split = open_split(texts.path / "train.arrow", ())
    batch = split.batch([0, 3, 5, 9], Collator.of(model))
    whole, less = (AutoModelForCausalLM.from_pretrained(one.folder).eval() for one in (start, done))
    with torch.no_grad():
        assert torch.equal(whole(**batch.inputs).logits, less(**batch.inputs).logits)
    assert less.config.num_hidden_layers == 3
    assert 1 < len(weight_files(done.folder)) < len(weight_files(start.folder))
    assert (done.folder / "generation_config.json").exists()


def test_lists_with_an_entry_for_each_layer_lose_the_same_ones(texts: PreparedDataset, tmp_path: Path) -> None:
    ids = {"vocab_size": len(tiny_lm_tokenizer()), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        **SIZES, **ids, num_hidden_layers=DEPTH, num_key_value_heads=2, head_dim=8, layer_types=kinds,
        sliding_window=4, max_position_embeddings=128,
    )  # fmt: skip
    start = started(written(tmp_path / "gemma", Gemma3ForCausalLM(config), language=True), texts, tmp_path)
    done, measured = pruned(start, texts, tmp_path, share=0.45)
    assert len(measured.removed) == 2
    left = [kind for i, kind in enumerate(kinds) if i not in measured.removed]
    assert json.loads((done.folder / "config.json").read_text())["layer_types"] == left
    stock: Any = AutoModelForCausalLM.from_pretrained(done.folder)
    assert [layer.self_attn.is_sliding for layer in stock.model.layers] == ["sliding" in kind for kind in left]

    rope = SmolLM3Config(
        **SIZES, **ids, num_hidden_layers=4, num_key_value_heads=2, no_rope_layers=[1, 1, 0, 1],
        max_position_embeddings=128,
    )  # fmt: skip
    start = started(written(tmp_path / "rope", SmolLM3ForCausalLM(rope), language=True), texts, tmp_path)
    done, measured = pruned(start, texts, tmp_path, layers=1)
    left_ropes = [use for i, use in enumerate([1, 1, 0, 1]) if i not in measured.removed]
    assert json.loads((done.folder / "config.json").read_text())["no_rope_layers"] == left_ropes


def test_what_has_no_layers_to_remove_is_refused(texts: PreparedDataset, bert: Path, tmp_path: Path) -> None:
    def saved(model: PreTrainedModel) -> Path:
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        return folder

    sizes = {"vocab_size": 20, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    albert = AlbertForSequenceClassification(AlbertConfig(**sizes, embedding_size=8, num_hidden_layers=4))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=16, d_ff=16, num_layers=2, num_heads=2))
    with pytest.raises(ModelError, match="share their weights, so none goes alone"):
        stack_of(saved(albert))
    with pytest.raises(ModelError, match=r"has 2 stacks of layers \(decoder.block, encoder.block\)"):
        stack_of(saved(t5))
    with pytest.raises(RecipeError, match="has 5 layers, got 5 to remove; allowed are 1 to 4"):
        Prune(dataset="d", layers=5).number(stack_of(bert).depth)
    with pytest.raises(RecipeError, match="the first 2 and the last 1 are kept, got 3 to remove; allowed are 1 to 2"):
        Prune(dataset="d", layers=3, keep_first=2, keep_last=1).number(5)
    with pytest.raises(ValueError, match="give `layers` or `share`, got both"):
        Prune(dataset="d", layers=3, share=0.5)


def test_layers_that_would_be_others_at_their_new_number_are_refused(texts: PreparedDataset, tmp_path: Path) -> None:
    """Qwen2 in a config of before `layer_types`: the layers from `max_window_layers` on look at a window alone."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    ids = {"vocab_size": len(tiny_lm_tokenizer()), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = Qwen2Config(
        **SIZES, **ids, num_hidden_layers=4, num_key_value_heads=2, use_sliding_window=True, sliding_window=64,
        max_window_layers=2, max_position_embeddings=128,
    )  # fmt: skip
    start = started(written(tmp_path / "qwen", Qwen2ForCausalLM(config), language=True), texts, tmp_path)
    said = json.loads((start.folder / "config.json").read_text())
    (start.folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if k != "layer_types"}))
    with pytest.raises(ModelError, match=r"layer 2 would be another at number 1: .*window"):
        pruned(start, texts, tmp_path, layers=1, keep_last=3)


@given(st.data())
@settings(max_examples=60)
def test_what_goes_has_the_least_influence_of_what_may_go(data: st.DataObject) -> None:
    depth = data.draw(st.integers(2, 9))
    first = data.draw(st.integers(0, depth - 1))
    last = data.draw(st.integers(0, depth - 1 - first))
    number = data.draw(st.integers(1, max(1, min(depth - first - last, depth - 1))))
    values = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.9]), min_size=depth, max_size=depth)
    influences = data.draw(values)
    distances = data.draw(values)[: depth - number + 1]
    kept = {"dataset": "d", "layers": number, "keep_first": first, "keep_last": last}
    lowest = Prune.model_validate(kept).chosen(influences, distances)
    free = [*range(first, depth - last)]
    assert len(lowest) == number
    assert {*lowest} <= {*free}
    assert sorted(influences[i] for i in lowest) == sorted(influences[i] for i in free)[:number]
    block = Prune.model_validate({**kept, "choose": "block"}).chosen(influences, distances)
    assert [*block] == [*range(block[0], block[0] + number)]
    assert {*block} <= {*free}
    assert distances[block[0]] == min(distances[i] for i in range(first, depth - last - number + 1))


@pytest.mark.slow
def test_lora_heals_what_is_left(texts: PreparedDataset, tmp_path: Path) -> None:
    start = started(written(tmp_path / "llama", llama(), language=True), texts, tmp_path)
    less, _ = pruned(start, texts, tmp_path, layers=2, keep_first=1)
    parts = {"name": "heal", "dataset": "d", "objective": {"kind": "causal_lm"}, "tuning": {"kind": "lora", "rank": 4}}
    phase = Phase.model_validate({**parts, "optimizer": {"learning_rate": 1e-2, "epochs": 4, "batch_size": 8}})
    job = TrainJob(start=less, data=texts, phase=phase, precision="fp32", seed=7, compute=HERE)
    done = train(job, Workspace(tmp_path))
    losses = [record["loss"] for record in curves.read(done.path / curves.FILE) if "loss" in record]
    assert np.mean(losses[-5:]) < 0.95 * losses[0]
    assert done.parent == less.weights
    assert AutoModelForCausalLM.from_pretrained(done.folder).config.num_hidden_layers == 3
