"""Training of ViT, ResNet and EfficientNet: the same loop, and BatchNorm that does not depend on how batches lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import nn
from transformers import AutoModelForImageClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import RecipeError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.parameter_names import layer_of
from ftlib.stages.train import TrainJob, train
from ftlib.testing import ImageFamily
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import Order
from ftlib.training.loops.modes import into_training, moving_statistics
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.image_kit import LABELS, image_data, image_phase, image_start, trained
from tests.ftlib.training.stopping import stopped_at

FAMILIES: tuple[ImageFamily, ...] = ("vit", "resnet", "efficientnet")
LORA: dict[str, Any] = {"kind": "lora", "rank": 2}
FIRST: dict[str, Any] = {"kind": "frozen_layers", "layers": 1}
FULL: dict[str, Any] = {"kind": "full"}
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return image_data(tmp_path_factory.mktemp("data"))


def weights_of(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder / "model.safetensors")


def changed(start: Checkpoint, end: Checkpoint) -> set[str]:
    before, after = weights_of(start), weights_of(end)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def losses(checkpoint: Checkpoint) -> list[float]:
    return [record["loss"] for record in curves.read(checkpoint.path / curves.FILE) if "loss" in record]


def is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var", "num_batches_tracked"))


def plain_loop(start: Checkpoint, data: PreparedDataset, phase: Phase, statistics: bool) -> tuple[list[float], Any]:
    """Train with torch and stock transformers alone, on the same batches."""
    model: Any = AutoModelForImageClassification.from_pretrained(start.folder)
    split, settings = open_split(split_file(data.path, "train"), LABELS), phase.optimizer
    order = Order([split.sizes], [1.0], settings.batch_size, 7)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], weight_decay=0.01)
    found: list[float] = []
    for step in range(6):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and not statistics:
                module.eval()
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        rows = order.at(step).rows
        batch = split.batch(rows, Collator.of(model))
        logits = model(pixel_values=batch.inputs["pixel_values"]).logits
        loss = nn.functional.cross_entropy(logits, batch.targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:  # warm-up is the first step alone
            group["lr"] = settings.learning_rate * (1.0 if step == 0 else 1.0 - (step - 1) / 5)
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(loss.detach()))
    return found, model


@pytest.mark.parametrize(
    ("family", "statistics"),
    [
        ("resnet", "frozen"),
        ("resnet", "updated"),
        pytest.param("vit", "frozen", marks=SLOW),
        pytest.param("efficientnet", "frozen", marks=SLOW),
        pytest.param("efficientnet", "updated", marks=SLOW),
    ],
)
def test_the_loop_is_a_plain_loop_of_torch_over_stock_transformers(
    family: ImageFamily, statistics: str, data: PreparedDataset, tmp_path: Path
) -> None:
    start = image_start(tmp_path, family)
    phase = image_phase(FULL, batch_norm=statistics, dropout=0.0)
    end = trained(tmp_path / "ours", start, data, phase)
    expected, model = plain_loop(start, data, phase, statistics == "updated")
    assert losses(end) == pytest.approx(expected, rel=2e-3 if family == "efficientnet" else 1e-4)
    ours, theirs = load(end, "labeled_images").state_dict(), model.state_dict()
    moved = {name for name in changed(start, end) if is_statistic(name)}
    assert bool(moved) == (statistics == "updated")
    for name in (name for name in ours if is_statistic(name)):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "family", ["resnet", pytest.param("efficientnet", marks=SLOW), pytest.param("vit", marks=SLOW)]
)
def test_the_split_of_a_batch_changes_nothing(family: ImageFamily, data: PreparedDataset, tmp_path: Path) -> None:
    start, phase = image_start(tmp_path, family), image_phase(FULL, dropout=0.0)
    whole = losses(trained(tmp_path / "whole", start, data, phase))
    split = losses(trained(tmp_path / "split", start, data, phase, micro_batch_size=3))
    assert split == pytest.approx(whole, rel=1e-3)
    # In training mode BatchNorm would normalise each piece by itself: another loss from the first step on.
    model: Any = AutoModelForImageClassification.from_pretrained(start.folder).train()
    rows = open_split(split_file(data.path, "train"), LABELS)
    order = Order([rows.sizes], [1.0], 8, 7).at(0).rows
    pieces = [rows.batch(order[i : i + 3], Collator.of(model)) for i in range(0, 8, 3)]
    total = sum(
        float(nn.functional.cross_entropy(model(**b.inputs).logits.detach(), b.targets, reduction="sum"))
        for b in pieces
    )
    assert (abs(total / 8 - whole[0]) > 1e-2) == (family == "resnet") or family == "efficientnet"


@pytest.mark.parametrize(
    "family", ["resnet", pytest.param("vit", marks=SLOW), pytest.param("efficientnet", marks=SLOW)]
)
def test_what_a_tuning_freezes_stays_bit_for_bit(family: ImageFamily, data: PreparedDataset, tmp_path: Path) -> None:
    start = image_start(tmp_path, family)
    end = trained(tmp_path, start, data, image_phase(FIRST, batch_norm="frozen"))
    names = {name for name in weights_of(start) if not is_statistic(name)}
    frozen = {name for name in names if layer_of(name) == 0 or (layer_of(name) is None and "embed" in name)}
    assert frozen
    assert changed(start, end) == names - frozen
    if family == "vit":
        return
    moving = trained(tmp_path / "updated", start, data, image_phase(FIRST, batch_norm="updated"))
    drifted = {name for name in changed(start, moving) if is_statistic(name)}
    assert drifted == {n for n in weights_of(start) if is_statistic(n) and layer_of(n) != 0 and "embed" not in n}


@pytest.mark.parametrize("tuning", [FULL, LORA], ids=["full", "lora"])
def test_pinned_parameters_stay_whatever_the_tuning(
    tuning: dict[str, Any], data: PreparedDataset, tmp_path: Path
) -> None:
    start = image_start(tmp_path, "efficientnet")
    end = trained(tmp_path, start, data, image_phase(tuning, frozen=["squeeze_excite", r"^classifier\.bias$"]))
    moved = changed(start, end)
    assert moved
    assert not [name for name in moved if "squeeze_excite" in name or name == "classifier.bias"]
    assert "efficientnet.encoder.top_conv.weight" in moved


def test_what_cannot_be_pinned_or_updated_is_said(data: PreparedDataset, tmp_path: Path) -> None:
    start = image_start(tmp_path, "vit")
    for fields, words in (
        ({"frozen": ["squeeze"]}, r"phases\[tune\].frozen: 'squeeze' matches no parameter; there are vit.embeddings"),
        ({"frozen": ["."]}, r"frozen: every parameter is frozen; nothing is left to train"),
        (
            {"batch_norm": "updated"},
            r"batch_norm: updated, but ViTForImage.* has no layer of BatchNorm that full trains",
        ),
    ):
        with pytest.raises(RecipeError, match=words):
            trained(tmp_path / words[:4], start, data, image_phase(FULL, **fields))


def test_a_pattern_is_a_regular_expression() -> None:
    with pytest.raises(ValueError, match=r"'\(' is no regular expression: missing \)"):
        image_phase(FULL, frozen=["("])


@pytest.mark.parametrize(
    "family", ["resnet", pytest.param("vit", marks=SLOW), pytest.param("efficientnet", marks=SLOW)]
)
def test_an_adapter_merged_answers_as_the_adapter_kept(
    family: ImageFamily, data: PreparedDataset, tmp_path: Path
) -> None:
    start = image_start(tmp_path, family)
    merged = trained(tmp_path / "merged", start, data, image_phase(LORA))
    kept = trained(tmp_path / "kept", start, data, image_phase({**LORA, "keep": "adapter"}))
    assert losses(merged) == losses(kept)
    moved = {name for name in changed(start, merged) if not name.startswith("classifier")}
    assert moved
    # Not depthwise, no biases, no norms.
    wide = {n for n, value in weights_of(start).items() if (value.ndim == 4 and value.shape[1] > 1) or value.ndim == 2}
    assert moved <= wide
    batch = open_split(split_file(data.path, "test"), LABELS).batch(
        range(8), Collator.of(load(start, "labeled_images"))
    )
    with torch.no_grad():
        ours, theirs = (load(one, "labeled_images")(**batch.inputs).logits for one in (merged, kept))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_an_adapter_that_could_not_be_merged_is_refused_before_training(data: PreparedDataset, tmp_path: Path) -> None:
    phase = image_phase({"kind": "lora", "rank": 32, "targets": ["depthwise_conv.depthwise_conv"]})
    with pytest.raises(RecipeError, match=r"targets: .*depthwise_conv is a convolution of \d+ groups, whose adapter"):
        trained(tmp_path, image_start(tmp_path, "efficientnet"), data, phase)


@pytest.mark.parametrize(
    "family", ["resnet", pytest.param("vit", marks=SLOW), pytest.param("efficientnet", marks=SLOW)]
)
def test_a_probe_is_scikit_learn_s_on_pooled_features(
    family: ImageFamily, data: PreparedDataset, tmp_path: Path
) -> None:
    start = image_start(tmp_path, family)
    end = trained(tmp_path, start, data, image_phase({"kind": "linear_probe", "l2": 1.0}))
    model: Any = AutoModelForImageClassification.from_pretrained(start.folder)
    split = open_split(split_file(data.path, "train"), LABELS)
    batch = split.batch(range(len(split)), Collator.of(model))
    with torch.no_grad():
        said = model.base_model(**batch.inputs)
    pooled = said.last_hidden_state[:, 0] if family == "vit" else said.pooler_output.flatten(1)
    assert batch.targets is not None
    fitted = LogisticRegression(C=1.0, max_iter=2000, tol=1e-6).fit(pooled.double().numpy(), batch.targets.numpy())
    weight = next(value for name, value in weights_of(end).items() if name.startswith("classifier") and value.ndim == 2)
    np.testing.assert_allclose(weight.numpy(), fitted.coef_, atol=1e-3)
    assert {name.split(".")[0] for name in changed(start, end)} == {"classifier"}


@pytest.mark.parametrize("fields", [{"batch_norm": "updated", "ema_decay": 0.5}], ids=["statistics"])
def test_a_run_that_resumes_ends_with_the_same_bits(
    fields: dict[str, Any], data: PreparedDataset, tmp_path: Path
) -> None:
    start, phase = image_start(tmp_path, "resnet"), image_phase(FULL, augmentation={"kind": "images"}, **fields)
    compute = Compute(workers=0, threads=1, checkpoint_seconds=1e-6)
    job = TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)

    with stopped_at(4):
        train(job, Workspace(tmp_path / "half"))
    resumed = train(job, Workspace(tmp_path / "half"))
    whole = train(job, Workspace(tmp_path / "whole"))
    assert resumed.facts["resumed_from_step"]
    assert resumed.weights == whole.weights
    assert losses(resumed) == losses(whole)


def test_a_question_to_the_model_moves_no_statistics(tmp_path: Path) -> None:
    model: Any = AutoModelForImageClassification.from_pretrained(image_start(tmp_path, "resnet").folder)
    assert {type(m).__name__ for m in model.modules() if m.training} == set()
    into_training(model, updated=False, dropout=True)
    assert model.training
    assert not any(m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    for p in model.resnet.embedder.parameters():
        p.requires_grad_(False)
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert moving_statistics(model).keys() == norms - {"resnet.embedder.embedder.normalization"}


@pytest.mark.slow
@pytest.mark.parametrize("tuning", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_workers_of_ray_train_as_one_process(
    family: ImageFamily, tuning: dict[str, Any], data: PreparedDataset, tmp_path: Path
) -> None:
    from ftlib.on_ray.session import session

    start = image_start(tmp_path, family)
    phase = image_phase(tuning, dropout=0.0, augmentation={"kind": "images"}, precision="fp32")
    alone = trained(tmp_path / "alone", start, data, phase)
    compute = Compute(workers=2, threads=1)
    job = TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)
    with session(compute):
        together = train(job, Workspace(tmp_path / "together"))
    assert together.facts["world_size"] == 2
    assert losses(together) == pytest.approx(losses(alone), rel=2e-3, abs=1e-4)
