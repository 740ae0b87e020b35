"""LoRA's kin: ranks and alphas of their own, modules that are trained whole, and PiSSA, against stock peft."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import RecipeError
from ftlib.kinds.loading import load, merged
from ftlib.merging.candidate_weights import check_candidate, write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.merging.methods import Average, TaskArithmetic
from ftlib.models.adapter import WEIGHTS
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.tuning.lora import LoRA
from tests.ftlib.stages.test_adapter_checkpoints import between_by_hand, logits, losses, trained

KIN: dict[str, dict[str, Any]] = {
    "patterns": {"rank_pattern": {"query": 3, r"1\..*value": 1}, "alpha_pattern": {"key": 2.0}},
    "whole": {"modules_to_save": ("pooler",), "targets": ("query",)},
    "pissa": {"init": "pissa"},
    "pissa_ranks": {
        **{"init": "pissa", "use_rslora": True, "rank_pattern": {"query": 3}, "alpha_pattern": {"key": 2.0}},
        **{"modules_to_save": ("pooler",), "b_rate_ratio": 4.0},
    },
}
FEW = ["pissa_ranks", *(pytest.param(name, marks=pytest.mark.slow) for name in ("patterns", "whole", "pissa"))]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": tiny_rows(32), "validation": tiny_rows(8, seed=1)})


def stock(start: Checkpoint, folder: Path) -> Any:
    base = AutoModelForSequenceClassification.from_pretrained(start.folder)
    torch.nn.init.normal_(base.classifier.weight)  # the adapter brings its own
    return peft.PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("name", FEW)
def test_kept_or_merged_it_is_one_training_and_stock_peft_s_model(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, name: str
):
    dense, kept = (trained(tmp_path, start, data, **{**LORA, **KIN[name]}, keep=k) for k in ("merged", "adapter"))
    assert losses(dense) == losses(kept)
    whole = load_file(kept.folder / WEIGHTS).get("base_model.model.bert.pooler.dense.weight")
    assert (whole is not None) == ("modules_to_save" in KIN[name])
    if whole is not None:
        assert not torch.equal(whole, load_file(start.folder / "model.safetensors")["bert.pooler.dense.weight"])
    theirs = logits(stock(start, kept.folder))
    assert torch.equal(logits(load(kept, "labeled")), theirs)
    torch.testing.assert_close(theirs, logits(load(dense, "labeled")), rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(stock(start, dense.path / "adapter")), theirs, rtol=0, atol=1e-6)
    candidate = Candidate.between(start, kept, 0.3)
    check_candidate(candidate)
    wanted = between_by_hand(start, kept, 0.3)
    torch.testing.assert_close(logits(model_of(candidate, "labeled")), wanted, rtol=0, atol=2e-5)
    write_candidate(candidate, tmp_path / "point")
    torch.testing.assert_close(logits(stock(start, tmp_path / "point")), wanted, rtol=0, atol=2e-5)


LORA: dict[str, Any] = {"kind": "lora", "rank": 2, "alpha": 8.0}


@pytest.mark.slow
@pytest.mark.parametrize("other", ["patterns", "pissa"])
def test_a_sum_gives_every_module_the_sum_of_its_ranks(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, other: str
):
    one = trained(tmp_path, start, data, **LORA, keep="adapter")
    two = trained(tmp_path, start, data, seed=5, **{**LORA, **KIN[other]}, keep="adapter")
    candidate = Candidate(name="s", start=start, end=one, siblings=(two,), merge=Average(ingredients=(1, 2)))
    weights = [merged(load(end, "labeled")).state_dict() for end in (one, two)]
    mean: Any = merged(load(start, "labeled"))
    mean.load_state_dict({name: (weights[0][name] + weights[1][name]) / 2 for name in weights[0]})
    write_candidate(candidate, tmp_path / "sum")
    torch.testing.assert_close(logits(stock(start, tmp_path / "sum")), logits(mean), rtol=0, atol=2e-5)
    torch.testing.assert_close(logits(model_of(candidate, "labeled")), logits(mean), rtol=0, atol=2e-5)


def test_an_embeddings_adapter_is_added_up_and_gone_on_with(start: Checkpoint, data: PreparedDataset, tmp_path: Path):
    over: dict[str, Any] = {**LORA, "targets": ("word_embeddings", "query"), "keep": "adapter"}
    one, two = trained(tmp_path, start, data, **over), trained(tmp_path, start, data, seed=5, **over)
    assert any(name.endswith(".lora_embedding_A") for name in load_file(one.folder / WEIGHTS))
    weights = [merged(load(end, "labeled")).state_dict() for end in (start, one, two)]
    candidate = Candidate(name="s", start=start, end=one, siblings=(two,), merge=TaskArithmetic(scale=0.5))
    check_candidate(candidate)
    wanted: Any = merged(load(start, "labeled"))
    wanted.load_state_dict({name: (weights[1][name] + weights[2][name]) / 2 for name in weights[0]})
    write_candidate(candidate, tmp_path / "sum")
    torch.testing.assert_close(logits(stock(start, tmp_path / "sum")), logits(wanted), rtol=0, atol=2e-5)
    further = trained(tmp_path, one, data, seed=7, **over)
    assert further.facts["steps"]


def test_pissa_begins_as_peft_does_and_is_converted_as_peft_converts(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
):
    """The reference: stock peft's own init, its first adapter saved, and the conversion that its page describes."""
    targets = ("query", "value")
    torch.manual_seed(0)
    ours: Any = LoRA(rank=3, alpha=6.0, targets=targets, init="pissa").prepare(
        load(start, "labeled"), "labeled", ["classifier"]
    )
    torch.testing.assert_close(logits(ours), logits(load(start, "labeled")), rtol=0, atol=1e-5)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=6, target_modules=list(targets), init_lora_weights="pissa"
    )
    theirs: Any = peft.get_peft_model(load(start, "labeled"), config)
    theirs.peft_config["default"].init_lora_weights = True
    theirs.save_pretrained(tmp_path / "first")
    theirs.peft_config["default"].init_lora_weights = "pissa"
    named = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        if "classifier" not in name:
            assert torch.equal(parameter, named[name]), name
            assert parameter.requires_grad == named[name].requires_grad
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5).add_(0.01)
                named[name].copy_(parameter)
    theirs.save_pretrained(tmp_path / "theirs", path_initial_model_for_weight_conversion=str(tmp_path / "first"))
    LoRA(rank=3, alpha=6.0, targets=targets, init="pissa").finish(ours, tmp_path / "ours")
    one, other = (load_file(tmp_path / whose / WEIGHTS) for whose in ("theirs", "ours"))
    assert {*other} - {*one} == {
        f"base_model.model.classifier.{part}" for part in ("weight", "bias")
    }  # peft forgets it
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-6)
    said = [json.loads((tmp_path / whose / "adapter_config.json").read_text()) for whose in ("theirs", "ours")]
    assert [[c["r"], c["lora_alpha"], c["init_lora_weights"]] for c in said] == [[6, 12, True]] * 2


def test_what_does_not_fit_is_one_line(start: Checkpoint, data: PreparedDataset, tmp_path: Path):
    model = load(start, "labeled")
    for settings, words in (
        ({"rank_pattern": {"quarry": 3}}, "rank_pattern: 'quarry' matches no module with an adapter; there are"),
        ({"alpha_pattern": {"quarry": 3.0}}, "alpha_pattern: 'quarry' matches no module"),
        ({"modules_to_save": ("pool",)}, "modules_to_save: 'pool' is no module of this model"),
        ({"init": "pissa", "rank": 200}, "pissa takes 200 directions of"),
    ):
        with pytest.raises(RecipeError, match=words):
            LoRA.model_validate(settings).prepare(load(start, "labeled"), "labeled", ["classifier"])
    tied: Any = load(start, "labeled")
    tied.extra = torch.nn.Linear(32, 32)
    tied.extra.weight = tied.bert.pooler.dense.weight
    with pytest.raises(RecipeError, match="shares its weights with another module"):
        LoRA(modules_to_save=("pooler",)).prepare(tied, "labeled", ["classifier"])
    with pytest.raises(ValueError, match="use_dora measures W"):
        LoRA(use_dora=True, init="pissa")
    with pytest.raises(ValueError, match="rank_pattern"):
        LoRA.model_validate({"rank_pattern": {"(": 3}})
    adapter: Any = LoRA(rank=2).prepare(model, "labeled", ["classifier"])
    with pytest.raises(RecipeError, match="pissa begins an adapter, and the phase goes on with one"):
        LoRA(rank=2, init="pissa").prepare(adapter, "labeled", [])
