"""Gradual unfreezing: who learns in which step, against counting, plain torch and frozen layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import AutoModelForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import RecipeError
from ftlib.kinds.loading import head_modules
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, ImageFamily, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import Order
from ftlib.training.loops.loop import Loop
from ftlib.training.phase import Phase
from ftlib.training.tuning.gradual_unfreezing import GradualUnfreezing
from ftlib.workspace import Workspace
from tests.ftlib.training.image_kit import image_data, image_phase, image_start, trained
from tests.ftlib.training.stopping import stopped_at

GRADUAL: dict[str, Any] = {"kind": "gradual_unfreezing"}
GROUPS = ("classifier.", "pooler.|layer.1.", "layer.0.", "embeddings.")
"""Of a classifier of two layers, from the last; "|" stands between names."""
EPOCH = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(110)
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": rows[:75], "validation": rows[75:]})


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("start")
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    return base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(folder))


def job(start: Checkpoint, data: PreparedDataset, tuning: dict[str, Any], **fields: Any) -> TrainJob:
    compute = Compute.model_validate({"workers": 0, "threads": 1, **fields.pop("compute", {})})
    optimizer = {"learning_rate": 3e-3, "epochs": 4, "batch_size": 16, **fields.pop("optimizer", {})}
    parts = {"name": "tune", "dataset": "d", "objective": {"kind": "classification"}, "optimizer": optimizer}
    phase = Phase.model_validate({**parts, "tuning": tuning, **fields})
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder / "model.safetensors")


def group_of(name: str) -> int:
    return next(i for i, marks in enumerate(GROUPS) if any(mark in name for mark in marks.split("|")))


def losses(checkpoint: Checkpoint, kind: str = "loss") -> list[float]:
    return [record[kind] for record in curves.read(checkpoint.path / curves.FILE) if kind in record]


class Step:
    """What a phase's model and optimiser are right after a step, taken by torch's own hook on optimisers."""

    def __init__(self, loop: Loop) -> None:
        named = dict(loop.model.named_parameters())
        self.weights = {name: p.detach().clone() for name, p in named.items()}
        self.trained = {name for name, p in named.items() if p.requires_grad}
        self.remembered = {name for name, p in named.items() if p in loop.optimizer.state}
        self.rates = {
            name: group["lr"]
            for group in loop.optimizer.param_groups
            for name, p in named.items()
            if any(p is one for one in group["params"])
        }
        self.dropping = {n for n, m in loop.model.named_modules() if isinstance(m, nn.Dropout) and m.training}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Step]]:
    """Record every step of the trainings in this process."""
    steps, loops = list[Step](), list[Loop]()
    made = Loop.__init__

    def noted(self: Loop, *given: Any) -> None:
        made(self, *given)
        loops.append(self)

    monkeypatch.setattr(Loop, "__init__", noted)
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(Step(loops[-1])) if loops else None)
    yield steps
    hook.remove()


@pytest.mark.slow
def test_one_more_group_learns_from_each_epoch_on_and_none_moves_before(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, recorded: list[Step]
) -> None:
    asked = job(start, data, GRADUAL, optimizer={"schedule": "constant", "warmup": 0.0, "weight_decay": 0.5})
    done = train(asked, Workspace(tmp_path))
    before = weights(start)
    assert len(recorded) == 4 * EPOCH
    assert before.keys() == recorded[0].weights.keys()
    for i, step in enumerate(recorded):
        learning = {name for name in before if group_of(name) <= i // EPOCH}
        assert step.trained == step.remembered == learning
        earlier = before if i == 0 else recorded[i - 1].weights
        for name, tensor in step.weights.items():
            # attention does not depend on its keys' bias: what little gradient rounding leaves may move it or not
            if "key.bias" not in name:
                assert torch.equal(tensor, earlier[name]) == (name not in learning), (i, name)
            assert name in learning or torch.equal(tensor, before[name])
            assert step.rates[name] == pytest.approx(3e-3 / 2.6 ** group_of(name))
        assert {group_of(n) if "bert" in n else 0 for n in step.dropping} == {*range(i // EPOCH + 1)}
    assert (done.facts["unfrozen_groups"], done.trained_parameters) == (
        "4 of 4",
        sum(t.numel() for t in before.values()),
    )
    sizes = np.array([sum(t.numel() for n, t in before.items() if group_of(n) == i) for i in range(4)])
    assert done.facts["trained_on_average"] == round(float(sizes @ [4, 3, 2, 1]) / 4)


@pytest.mark.slow
def test_it_equals_plain_torch_with_groups_added_at_each_border(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """A second implementation: torch's unfused AdamW, whose `add_param_group` keeps what it remembers of the others."""
    settings = {"learning_rate": 1e-3, "weight_decay": 0.1, "clip_norm": 0.5, "epochs": 2, "warmup": 0.0}
    tuning = {**GRADUAL, "epochs_per_group": 0.4, "rate_divisor": 2.0}
    ours = weights(train(job(start, data, tuning, optimizer=settings, dropout=0.0), Workspace(tmp_path)))

    model: Any = AutoModelForSequenceClassification.from_pretrained(start.folder).eval()
    split = open_split(data.path / "train.arrow", LABELS)
    order = Order([split.sizes], [1.0], 16, 7)
    optimizer: Any = None
    for step in range(10):
        if step in (0, 2, 4, 6):
            i = step // 2
            fresh = [p.requires_grad_(True) for n, p in model.named_parameters() if group_of(n) == i]
            added = [
                {"params": [p for p in fresh if (p.ndim > 1) == decays], "weight_decay": 0.1 * decays, "scale": 0.5**i}
                for decays in (True, False)
            ]
            if optimizer is None:
                optimizer = torch.optim.AdamW(added, foreach=False)
            else:
                [optimizer.add_param_group(group) for group in added]
            for name, p in model.named_parameters():
                p.requires_grad_(group_of(name) <= i)
        rows = order.at(step).rows
        loss = torch.zeros(())
        for row in rows:
            ids = torch.tensor(split.tokens(row)).long()[None]
            loss = loss + model(input_ids=ids, labels=torch.tensor([split.targets.positions[row]])).loss  # type: ignore[attr-defined]
        (loss / len(rows)).backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 - step / 10) * group["scale"]
        optimizer.step()
        optimizer.zero_grad()
    for name, theirs in model.state_dict().items():
        torch.testing.assert_close(ours[name], theirs, rtol=2e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


def test_ended_before_the_second_group_it_is_frozen_layers(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """All but the head stay, so phases, penalties and averages see the same training, to the bit."""
    fields: dict[str, Any] = {"dropout": 0.0, "ema_decay": 0.8, "penalty": {"kind": "l2_sp"}}
    fields["optimizer"] = {"epochs": 1, "weight_decay": 0.5}
    frozen = {"kind": "frozen_layers", "layers": 2, "also": ["pooler"]}
    early, known = (train(job(start, data, tuning, **fields), Workspace(tmp_path)) for tuning in (GRADUAL, frozen))
    assert early.weights == known.weights
    assert losses(early) == losses(known)
    assert early.trained_parameters == known.trained_parameters
    assert early.facts["unfrozen_groups"] == "1 of 4"


@pytest.mark.slow
def test_a_group_that_its_rate_cannot_move_is_refused_before_the_first_step(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """A new norm's weights are 1, which steps below 3e-8 leave as it is; AdamW's are at most 7.3 times its rate."""
    slow = {**GRADUAL, "rate_divisor": 18.0}
    words = (
        r"\[tune\]: 1 trainable .* bert\.embeddings\.LayerNorm\.weight: .* 3\.4e-09 at .*; lower tuning\.rate_divisor,"
    )
    with pytest.raises(RecipeError, match=words):
        train(job(start, data, slow, optimizer={"learning_rate": 2e-5}), Workspace(tmp_path))
    early = job(start, data, slow, optimizer={"learning_rate": 2e-5, "epochs": 1})  # its turn does not come
    assert train(early, Workspace(tmp_path)).facts["unfrozen_groups"] == "1 of 4"


EARLY = {"early_stopping": {"patience": 9}}
"""Its best step is of the first epoch here: what trains after it shows in the losses alone."""


@pytest.mark.parametrize(
    ("step", "stopping"),
    [(EPOCH, {}), *(pytest.param(step, EARLY, marks=pytest.mark.slow) for step in (EPOCH - 1, EPOCH, EPOCH + 1, 11))],
)
def test_stopped_around_a_border_it_goes_on_to_the_bit(
    start: Checkpoint,
    data: PreparedDataset,
    tmp_path_factory: pytest.TempPathFactory,
    step: int,
    stopping: dict[str, Any],
) -> None:
    fields: dict[str, Any] = {"ema_decay": 0.7, "optimizer": {"epochs": 2.5}}
    asked, root = job(start, data, GRADUAL, **fields, **stopping), tmp_path_factory.getbasetemp()
    whole = train(asked, Workspace(root / "thawing-whole"))  # found again by the next case
    with stopped_at(step):
        train(asked, Workspace(root / f"thawing-{step}"))
    resumed = train(asked, Workspace(root / f"thawing-{step}"))
    assert resumed.facts["resumed_from_step"] == step
    assert resumed.weights == whole.weights
    assert losses(resumed) == losses(whole)
    assert losses(resumed, "validation_loss") == losses(whole, "validation_loss")
    if not stopping:
        before, after = weights(start), weights(resumed)
        assert {group_of(name) for name in before if not torch.equal(before[name], after[name])} == {0, 1, 2}


@pytest.mark.slow
def test_early_stopping_takes_back_groups_that_began_after_the_best_step(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """A rate that destroys the model once its layers learn too: the best weights are of the head's own epoch."""
    rate = {"learning_rate": 0.5, "schedule": "constant", "warmup": 0.0, "epochs": 2}
    asked: dict[str, Any] = {"early_stopping": {"patience": 20}, "evaluations_per_epoch": 5, "dropout": 0.0}
    done = train(job(start, data, {**GRADUAL, "rate_divisor": 1.0}, optimizer=rate, **asked), Workspace(tmp_path))
    assert done.facts["steps"] == 2 * EPOCH
    assert int(done.facts["best_step"]) <= EPOCH
    assert done.facts["unfrozen_groups"] == "1 of 4"
    after = weights(done)
    for name, tensor in weights(start).items():
        assert torch.equal(tensor, after[name]) == (group_of(name) > 0), name


@pytest.mark.parametrize(
    "family", [pytest.param(one, marks=pytest.mark.slow) for one in ("efficientnet", "resnet", "vit")]
)
def test_statistics_of_waiting_layers_do_not_move(tmp_path: Path, family: ImageFamily) -> None:
    """Two epochs of as many groups: head, then the last block with what follows it; all before is as it was."""
    start = image_start(tmp_path, family)
    updated = {} if family == "vit" else {"batch_norm": "updated"}
    done = trained(tmp_path / "work", start, image_data(tmp_path / "data"), image_phase(GRADUAL, **updated))
    before, after = weights(start), weights(done)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    marks = {
        "efficientnet": ("classifier.", "encoder.blocks.2.", "encoder.top_"),
        "resnet": ("classifier.", "encoder.stages.1."),
        "vit": ("classifier.", "layer.1.", "layers.1.", "vit.layernorm"),
    }[family]
    last = {name for name in before if any(mark in name for mark in marks)}
    assert moved <= last
    assert any("running_mean" in name for name in moved) == (family != "vit")
    assert {name for name in last - moved if "key.bias" not in name} == set()


def places(model: nn.Module, **fields: Any) -> dict[str, int]:
    tuning = GradualUnfreezing(epochs_per_group=2, **fields)
    tuning.prepare(model, "labeled", head_modules(model))
    return {name: at // 20 for name, at in tuning.thaws(model, head_modules(model), 10).items()}


def test_groups_of_models_that_tie_or_share_their_weights() -> None:
    from transformers import (
        AlbertConfig,
        AlbertForSequenceClassification,
        LlamaConfig,
        LlamaForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
        XLMConfig,
        XLMForSequenceClassification,
    )

    sizes = {"vocab_size": 20, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    llama = LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=5, tie_word_embeddings=True))
    tied = places(llama, layers_per_group=2)
    assert {name: group for name, group in tied.items() if "layers" not in name} == {
        "model.embed_tokens.weight": 3, "model.norm.weight": 0,
    }  # fmt: skip
    assert [tied[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(5)] == [2, 1, 1, 0, 0]

    config = AlbertConfig(**sizes, embedding_size=8, num_hidden_layers=6, num_hidden_groups=2)
    albert = places(AlbertForSequenceClassification(config))
    shared = {name.split("albert_layer_groups.")[1][0]: at for name, at in albert.items() if "layer_groups" in name}
    assert shared == {"0": 2, "1": 1}
    assert (albert["classifier.weight"], albert["albert.embeddings.word_embeddings.weight"]) == (0, 3)

    t5 = places(T5ForConditionalGeneration(T5Config(vocab_size=20, d_model=16, d_ff=16, num_layers=2, num_heads=2)))
    assert t5["encoder.block.1.layer.0.SelfAttention.q.weight"] == t5["decoder.block.1.layer.0.SelfAttention.q.weight"]
    assert max(t5, key=lambda name: t5[name]) == "shared.weight"

    with pytest.raises(RecipeError, match="no parameter of XLMForSequenceClassification says which layer it is in"):
        places(XLMForSequenceClassification(XLMConfig(vocab_size=20, emb_dim=16, n_layers=2, n_heads=2)))
