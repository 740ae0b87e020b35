"""(IA)3: what it trains, what it merges into, and the line that its factors walk."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft.tuners.ia3 import IA3Layer
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import RecipeError
from ftlib.kinds.loading import load, merged
from ftlib.merging.adapter_points import write_point
from ftlib.merging.candidate_weights import check_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.in_memory import model_of
from ftlib.merging.methods import Average, TaskArithmetic
from ftlib.models.adapter import WEIGHTS
from ftlib.models.checkpoint import Checkpoint
from ftlib.testing import tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.optimizer import build_optimizer
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.tuning.ia3 import IA3
from tests.ftlib.stages.test_adapter_checkpoints import between_by_hand, logits, losses, trained

NAMED: dict[str, Any] = {"targets": ["key", "output.dense"], "feedforward": ["output.dense"]}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": tiny_rows(32), "validation": tiny_rows(8, seed=1)})


def tuned(root: Path, start: Checkpoint, data: PreparedDataset, **tuning: Any) -> Checkpoint:
    return trained(root, start, data, kind="ia3", **tuning)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory, start: Checkpoint, data: PreparedDataset) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("ends")
    return {keep: tuned(root, start, data, keep=keep) for keep in ("merged", "adapter")}


def test_factors_and_the_head_move_and_the_merge_is_the_weights_times_them(
    start: Checkpoint, ends: dict[str, Checkpoint]
):
    before, after = (load_file(c.folder / "model.safetensors") for c in (start, ends["merged"]))
    factors = {
        name.removeprefix("base_model.model.").removesuffix(".ia3_l"): value
        for name, value in load_file(ends["merged"].path / "adapter" / WEIGHTS).items()
        if name.endswith(".ia3_l")
    }
    scaled = {name.partition(".layer.0.")[2] for name in factors if ".layer.0." in name}
    # The paper's places, by peft's names for BERT: its pattern takes attention's own output layer too.
    assert scaled == {"attention.self.key", "attention.self.value", "attention.output.dense", "output.dense"}
    for name, value in before.items():
        layer = name.rpartition(".")[0]
        if name.startswith("classifier"):
            assert not torch.equal(after[name], value)
        elif layer in factors and (name.endswith("weight") or factors[layer].shape[0] > 1):
            factor = factors[layer] if name.endswith("weight") else factors[layer].flatten()
            torch.testing.assert_close(after[name], value * factor, rtol=0, atol=1e-6)
            assert not torch.equal(after[name], value), name
        else:
            assert torch.equal(after[name], value), name


def test_a_kept_adapter_is_the_same_training_and_what_stock_peft_opens(start: Checkpoint, ends: dict[str, Checkpoint]):
    dense, adapter = ends["merged"], ends["adapter"]
    assert losses(adapter) == losses(dense)
    stock = AutoModelForSequenceClassification.from_pretrained(start.folder)
    theirs = logits(peft.PeftModel.from_pretrained(stock, adapter.folder))
    assert torch.equal(logits(load(adapter, "labeled")), theirs)
    torch.testing.assert_close(theirs, logits(load(dense, "labeled")), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_phase_goes_on_with_the_factors_that_are_there(
    ends: dict[str, Checkpoint], data: PreparedDataset, tmp_path: Path
):
    from_dense, on = (tuned(tmp_path, ends[name], data, keep="adapter") for name in ("merged", "adapter"))
    assert (from_dense.base, on.base) != (None, None)
    assert on.base == ends["adapter"].base
    assert losses(on)[0] == pytest.approx(losses(from_dense)[0], abs=1e-6)
    with pytest.raises(RecipeError, match="but this tuning makes none"):
        tuned(tmp_path, ends["adapter"], data, keep="adapter", **NAMED)
    with pytest.raises(RecipeError, match="adapter of IA3, which 'lora' cannot go on with"):
        trained(tmp_path, ends["adapter"], data, keep="adapter")


@pytest.mark.parametrize("alpha", [0.3, *(pytest.param(end, marks=pytest.mark.slow) for end in (0.0, 1.0))])
def test_a_point_of_the_line_is_the_mix_of_the_merged_weights(
    start: Checkpoint, ends: dict[str, Checkpoint], tmp_path: Path, alpha: float
):
    candidate = Candidate.between(start, ends["adapter"], alpha)
    check_candidate(candidate)
    wanted = between_by_hand(start, ends["adapter"], alpha)
    torch.testing.assert_close(logits(model_of(candidate, "labeled")), wanted, rtol=0, atol=2e-5)
    base = ends["adapter"].base
    assert base
    write_point(candidate, tmp_path / "point", base)
    bare = AutoModelForSequenceClassification.from_pretrained(start.folder)
    torch.nn.init.normal_(bare.classifier.weight)
    theirs = peft.PeftModel.from_pretrained(bare, tmp_path / "point")
    torch.testing.assert_close(logits(theirs), wanted, rtol=0, atol=2e-5)


@pytest.mark.slow
def test_a_sum_of_adapters_mixes_their_factors(
    start: Checkpoint, ends: dict[str, Checkpoint], data: PreparedDataset, tmp_path: Path
):
    other = trained(tmp_path, start, data, seed=5, kind="ia3", keep="adapter")
    shares = {Average(ingredients=(1, 2)): (0, 0.5, 0.5), TaskArithmetic(scale=0.5): (0, 0.5, 0.5)}
    weights = [{**merged(load(one, "labeled")).state_dict()} for one in (start, ends["adapter"], other)]
    for merge, parts in shares.items():
        two = Candidate(name="sum", start=start, end=ends["adapter"], siblings=(other,), merge=merge)
        model: Any = merged(load(start, "labeled"))
        mixed = {n: sum(s * w[n].double() for s, w in zip(parts, weights, strict=True)) for n in weights[0]}
        model.load_state_dict({name: torch.as_tensor(value).float() for name, value in mixed.items()})
        torch.testing.assert_close(logits(model_of(two, "labeled")), logits(model), rtol=0, atol=2e-5)


def test_decay_does_not_pull_factors_to_nothing(start: Checkpoint):
    torch.manual_seed(0)
    wrapped = IA3().prepare(load(start, "labeled"), "labeled", ["classifier"])
    layers = [module for module in wrapped.modules() if isinstance(module, IA3Layer)]
    factors = {id(p) for layer in layers for p in layer.ia3_l.parameters()}
    assert all(np.all(p.detach().numpy() == 1) for layer in layers for p in layer.ia3_l.parameters())
    groups = build_optimizer(wrapped, AdamW(weight_decay=0.5), 1.0, ["classifier"], 0).param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert factors
    assert decayed
    assert not factors & decayed


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"targets": ["key"]}, "named together"),
        ({"targets": ["key"], "feedforward": ["dense"]}, "feedforward names dense, which targets does not"),
        ({"targets": [], "feedforward": []}, "targets is empty"),
    ],
)
def test_modules_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str):
    with pytest.raises(ValueError, match=said):
        IA3.model_validate(settings)


def test_an_architecture_that_peft_does_not_know_needs_both_names(start: Checkpoint, monkeypatch: pytest.MonkeyPatch):
    model: Any = load(start, "labeled")
    monkeypatch.setattr(type(model.config), "model_type", "unheard-of")
    with pytest.raises(RecipeError, match="name both targets and feedforward"):
        IA3().prepare(model, "labeled", ["classifier"])
    with pytest.raises(RecipeError, match=r"\['kez'\] fit no module of this model"):
        IA3(targets=("kez",), feedforward=()).prepare(model, "labeled", ["classifier"])
    assert IA3.model_validate(NAMED).prepare(model, "labeled", ["classifier"]) is not None
