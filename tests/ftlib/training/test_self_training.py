"""A model that learns from what it was: COSINE's teacher, and the divergence from the own moving average."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.text_to_text import TextToText
from ftlib.data.processor import Processor
from ftlib.errors import RecipeError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.recipe.file import load_recipe
from ftlib.stages.train import TrainJob, train
from ftlib.testing import (
    LABELS,
    tiny_checkpoint,
    tiny_lm_tokenizer,
    tiny_prepared,
    tiny_prepared_as,
    tiny_recipe,
    tiny_rows,
    tiny_sources,
    tiny_text_to_text,
)
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.ema import Average
from ftlib.training.objectives.classification import Classification
from ftlib.training.objectives.completion import Completion
from ftlib.training.objectives.cosine import Cosine
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(40)
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": rows[:32], "validation": rows[32:]})


def job(start: Checkpoint, data: PreparedDataset, **fields: Any) -> TrainJob:
    settings = AdamW(learning_rate=3e-3, epochs=2, batch_size=8)
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": Classification(),
            "tuning": Full(),
            "optimizer": settings,
            **fields,
        }
    )
    compute = Compute(workers=0, threads=1)
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)


def test_pseudo_labels_and_loss_are_the_papers_formulas() -> None:
    objective, random = Cosine(threshold=0.2, contrast=0.5, smoothing=0.3), np.random.default_rng(0)
    f = random.dirichlet([0.4] * 3, size=7)
    soft = f**2 / f.sum(0)
    soft /= soft.sum(1, keepdims=True)
    weights = 1 + (soft * np.log(soft)).sum(1) / np.log(3)
    said = objective.pseudo_labels(torch.from_numpy(f))
    np.testing.assert_allclose(said.soft.numpy(), soft, rtol=1e-5)
    np.testing.assert_allclose(said.weights.numpy(), weights, atol=1e-6)
    sure = [i for i in range(7) if weights[i] > 0.2]
    assert 2 < len(sure) < 7
    assert said.sure.nonzero().flatten().tolist() == sure
    assert objective.count_of({"answers": torch.from_numpy(f)}) == len(sure)
    v = random.normal(size=(7, 4)) / 2
    pairs = []
    for i in sure:
        for j in sure:
            distance = np.sqrt(((v[i] - v[j]) ** 2).sum())
            same = soft[i].argmax() == soft[j].argmax()
            if i != j:
                pairs.append((distance**2 if same else max(0.0, 1 - distance) ** 2) / 2)
    ours = objective.distances(torch.from_numpy(v), said)
    assert float(ours.sum()) == pytest.approx(len(sure) * np.mean(pairs))


def test_the_contrast_term_moves_the_student(start: Checkpoint, data: PreparedDataset) -> None:
    """In the published code the features are the frozen teacher's, and their term has no gradient."""

    def gradients(contrast: float) -> dict[str, torch.Tensor]:
        model, split = load_model(start.folder, "labeled"), open_split(data.path / "train.arrow", LABELS)
        objective = Cosine(threshold=1e-4, contrast=contrast, smoothing=0.0)
        asking = Asking(objective, model, Collator.of(model), ALONE, companions={})
        pieces, count = asking.pieces(split, np.arange(8))
        assert 1 < count <= 8
        (asking.loss(split, pieces[0]).total / count).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    without, with_contrast = gradients(0.0), gradients(1.0)
    body = [name for name in without if "encoder" in name and "key.bias" not in name]
    assert body
    assert all((with_contrast[name] - without[name]).norm() > 1e-3 * without[name].norm() for name in body)
    torch.testing.assert_close(with_contrast["classifier.bias"], without["classifier.bias"])  # it reads no logits


def test_the_teacher_is_renewed_and_a_resumed_run_has_the_same(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    objective = Cosine(threshold=1e-4, renewal=3)
    whole = train(job(start, data, objective=objective), Workspace(tmp_path / "whole"))
    with stopped_at(4):
        train(job(start, data, objective=objective), Workspace(tmp_path / "again"))
    again = train(job(start, data, objective=objective), Workspace(tmp_path / "again"))
    assert again.facts["resumed_from_step"] == 4
    assert again.weights == whole.weights
    never = train(job(start, data, objective=objective.model_copy(update={"renewal": 99})), Workspace(tmp_path / "n"))
    said = [[r["loss"] for r in curves.read(one.path / curves.FILE) if "loss" in r] for one in (whole, never)]
    assert said[0][:3] == said[1][:3]
    assert said[0][3] != said[1][3]


def test_a_validation_of_which_no_row_counts_has_no_loss(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """A teacher that is sure of nothing: 0 would be the best loss of all, for good."""
    unsure, one_step = Cosine(threshold=1.0), AdamW(learning_rate=3e-3, epochs=1, batch_size=32)
    done = train(job(start, data, objective=unsure, optimizer=one_step), Workspace(tmp_path))
    assert done.facts["steps"] == 1
    assert not {"best_validation_loss", "best_step"} & done.facts.keys()
    assert not any("validation_loss" in record for record in curves.read(done.path / curves.FILE))


def test_self_kl_is_the_divergence_from_the_average_beside_any_loss(start: Checkpoint, data: PreparedDataset) -> None:
    model, split = load_model(start.folder, "labeled"), open_split(data.path / "train.arrow", LABELS)
    average, collate = Average(model, 0.9), Collator.of(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
    asking = Asking(Classification(), model, collate, ALONE, companions={}, micro_batch_size=3)
    plain = sum(float(asking.loss(split, piece).total) for piece in asking.pieces(split, np.arange(8))[0])
    asking.remembers(None, average, 0.5)
    pieces, count = asking.pieces(split, np.arange(8))
    ours = sum(float(asking.loss(split, piece).total) for piece in pieces)
    batch, old = split.batch(range(8), collate), load_model(start.folder, "labeled")
    with torch.no_grad():
        p, q = (one(**batch.inputs).logits.double().softmax(-1) for one in (old, model))
    assert count == 8
    assert ours - plain == pytest.approx(0.5 * float((p * (p / q).log()).sum()), rel=1e-3)
    with torch.no_grad():  # what is measured is the objective alone
        assert all(piece.recalled is None for piece in asking.pieces(split, np.arange(8))[0])


def test_self_kl_asks_both_of_the_rows_that_the_loss_sees(start: Checkpoint, data: PreparedDataset) -> None:
    model, split = load_model(start.folder, "labeled"), open_split(data.path / "train.arrow", LABELS)
    seen: list[object] = []
    asking = Asking(Classification(), model, Collator.of(model), ALONE, companions={}, micro_batch_size=8)
    asking.remembers(None, Average(model, 0.9), 0.5)
    asked = asking._batch
    asking._batch = lambda split, piece, augment: [seen.append(augment), asked(split, piece, None)][1]  # type: ignore[method-assign]
    changes: Any = object()
    (piece,) = asking.pieces(split, np.arange(8), augment=changes)[0]
    asking.loss(split, piece, changes)
    assert seen == [changes] * 3


def test_self_kl_of_an_encoder_decoder_reads_what_its_decoder_says(tmp_path: Path) -> None:
    """Sources are longer than targets here, in tokens and in padding."""
    format = TextToText(source="source", target="target", max_tokens=96, max_target_tokens=32)
    rows = [
        {"source": (row["source"] + " ") * (1 + i), "target": row["target"]} for i, row in enumerate(tiny_sources(4))
    ]
    data = tiny_prepared_as(tmp_path, format, {"train": rows}, Processor.of(tiny_lm_tokenizer(), decoder_start=0))
    model = load_model(tiny_text_to_text(tmp_path / "model", "t5"), "text_to_text").eval()
    split, average = open_split(data.path / "train.arrow", ()), Average(model, 0.9)
    with torch.no_grad():
        model.get_output_embeddings().weight *= 3
    asking = Asking(Completion(), model, Collator.of(model), ALONE, companions={}, micro_batch_size=2)
    plain = sum(float(asking.loss(split, piece).total) for piece in asking.pieces(split, np.arange(4))[0])
    asking.remembers(None, average, 0.5)
    pieces, count = asking.pieces(split, np.arange(4))
    ours = sum(float(asking.loss(split, piece).total) for piece in pieces)
    batch, old, divergence, answers = split.batch(range(4), Collator.of(model)), copy.deepcopy(model), 0.0, 0
    with torch.no_grad():
        for name, parameter in old.named_parameters():
            parameter.copy_(average.tensors[name])
        p, q = (one(**batch.inputs).logits.double().softmax(-1) for one in (old, model))
        for row, mask in enumerate(batch.inputs["decoder_attention_mask"]):
            tokens = int(mask.sum())
            answers += tokens
            divergence += float((p[row, :tokens] * (p[row, :tokens] / q[row, :tokens]).log()).sum())
    assert divergence > 1e-3
    assert ours - plain == pytest.approx(0.5 * count / answers * divergence, rel=1e-2)


@pytest.mark.slow
def test_self_kl_trains_otherwise_and_resumes_to_the_bit(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    fields = {"ema_decay": 0.9, "self_kl": 5.0, "dropout": 0.0}
    whole = train(job(start, data, **fields), Workspace(tmp_path / "whole"))
    with stopped_at(4, late=1):
        train(job(start, data, **fields), Workspace(tmp_path / "again"))
    again = train(job(start, data, **fields), Workspace(tmp_path / "again"))
    assert again.weights == whole.weights
    free = train(job(start, data, **{**fields, "self_kl": 0.0}), Workspace(tmp_path / "free"))
    assert free.weights != whole.weights


def test_self_kl_without_an_average_or_a_distribution_is_one_line(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(
        RecipeError, match=r"phases\[tune\]\.self_kl: compares with the moving average of the weights; giv"
    ):
        load_recipe(recipe, ["phases.tune.self_kl=1"])
    load_recipe(recipe, ["phases.tune.self_kl=1", "phases.tune.ema_decay=0.9"])
