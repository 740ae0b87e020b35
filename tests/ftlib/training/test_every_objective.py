"""How a global batch is split changes nothing, and a stop in the middle: of every objective that there is.

A new objective is asked without an edit here. One that needs fields, or rows of a new kind, fails for want of them.
"""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ftlib.config import BatchKind, Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.boxed_image import BoxedImage
from ftlib.data.prepared import add_scores, split_file
from ftlib.kinds.collate import Collator
from ftlib.kinds.draws import Draw
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import head_modules, load_model, load_processor, load_with_gaps
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.table.row import Kind
from ftlib.models.folder import find_model
from ftlib.models.pipelines import as_one_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.score import ScoreJob, score
from ftlib.stages.train import TrainJob, train
from ftlib.testing import (
    LABELS,
    tiny_boxed_cells,
    tiny_captioned_split,
    tiny_chat_lm,
    tiny_chats,
    tiny_classifier,
    tiny_comparisons,
    tiny_detector,
    tiny_multi_label_rows,
    tiny_pairs,
    tiny_pipeline,
    tiny_preferences,
    tiny_prepared,
    tiny_prepared_as,
    tiny_prompts,
    tiny_questions,
    tiny_rows,
    tiny_scored_rows,
    tiny_tagged_rows,
    tiny_thumbs,
)
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.group import Group
from ftlib.training.loops.asking import Asking
from ftlib.training.objectives import Objective
from ftlib.training.objectives.policy import GROUP, START, WORTH
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

ROWS: dict[BatchKind, Callable[[int], Sequence[Any]]] = {
    "labeled": tiny_rows,
    "multi_labeled": tiny_multi_label_rows,
    "scored": tiny_scored_rows,
    "tagged": tiny_tagged_rows,
    "spans": tiny_questions,
    "tokens": tiny_rows,
    "completions": tiny_prompts,
    "chats": tiny_chats,
    "masked": tiny_rows,
    "retrieved": tiny_pairs,
    "compared": tiny_comparisons,
    "preferences": tiny_preferences,
    "judged": tiny_thumbs,
}
"""Rows of every kind that an objective may need, as `tiny_prepared` reads them."""
FIELDS: dict[str, dict[str, Any]] = {
    "cosine": {"threshold": 1e-7},  # a tiny model is sure of nothing
    "rloo": {"reward": {"kind": "length", "most": 9}, "updates": 2, "max_new_tokens": 8},
    "grpo": {"reward": {"kind": "length", "most": 9}, "beta": 0.1, "max_new_tokens": 8},
}
"""What an objective must be told, by its kind."""
TUNINGS = {"full": Full(), "lora": LoRA(rank=2)}
OBJECTIVES: list[type[Any]] = [*get_args(get_args(Objective)[0])]
TAGS = ("O", "B-BUG", "I-BUG", "B-PAY", "I-PAY")
BATCH = np.array([9, 2, 5, 7, 0, 1, 3, 4, 8, 11, 6])

each_objective = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one.model_fields["kind"].default)


@dataclass(frozen=True)
class Rank(Group):
    """One of several ranks that are threads of this process."""

    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(1))
    given: list[Any] = field(default_factory=list)

    def _all(self, mine: Any) -> list[Any]:
        self.given[self.rank] = mine
        self.meeting.wait(60)
        everybody = [*self.given]
        self.meeting.wait(60)
        return everybody

    def add_up(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack(self._all(tensor.detach().clone())).sum(0)

    def sum(self, *values: float | torch.Tensor) -> list[float]:
        return [float(sum(each)) for each in zip(*self._all(values), strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("objectives")
    tiny_chat_lm(made / "decoder")
    tiny_classifier(made / "encoder")
    tiny_pipeline(made / "pipeline")
    tiny_detector(made / "detector", LABELS)
    return made


def rows_for(objective: Any, folder: Path, labels: tuple[str, ...]) -> PreparedSplit:
    """Return twelve rows of the first kind that the objective can learn from, with the scores that it reads."""
    kind = next(kind.name for kind in KINDS.values() if kind.taught_as == objective.needs)
    if kind == "captioned_images":
        return open_split(tiny_captioned_split(folder / "captioned.arrow", 12), labels).drawn(Draw(3, 1))
    if kind == "boxed_images":
        return open_split(split_file(boxed(folder, {"train": 12}).path, "train"), labels).drawn(Draw(3, 1))
    data = tiny_prepared(folder / f"rows-{objective.kind}", {"train": ROWS[kind](12)}, kind=kind)
    path = split_file(data.path, "train")
    for name in (WORTH, GROUP) if getattr(objective, "writes", False) else getattr(objective, "scores", ()):
        scored = path.with_name(f"{name}.arrow")
        shape = (12, len(labels)) if labels else (12, 2) if kind in ("preferences", "judged") else 12
        scores = np.random.default_rng(0).normal(size=shape)
        scores = np.arange(12) // 3 if name == GROUP else scores
        add_scores(path, scored, name, scores.astype(np.float32))
        path = scored
    return open_split(path, labels).drawn(Draw(3, 1))


def boxed(folder: Path, counts: Mapping[Split, int]) -> PreparedDataset:
    """Return prepared images with boxes: an image file for every row, and what the detector's processor makes of it."""
    rows = {split: tiny_boxed_cells(count, LABELS, seed=i) for i, (split, count) in enumerate(counts.items())}
    return tiny_prepared_as(folder / "boxed", BoxedImage(), rows, load_processor(folder / "detector"))


def model_for(kind: BatchKind, folder: Path, labels: tuple[str, ...], seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "captioned_images":
        return load_model(as_one_model(folder / "pipeline"), kind)
    source = folder / source_of(KINDS[kind])
    dropouts = {name: 0.0 for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout")}
    model, _ = load_with_gaps(source, kind, **KINDS[kind].head().config(labels), **dropouts)
    if labels:
        model.config.id2label = dict(enumerate(labels))  # type: ignore[union-attr]
        model.config.label2id = {label: i for i, label in enumerate(labels)}  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)  # or every row would get the same answer
    return model


def source_of(kind: Kind) -> str:
    return "decoder" if kind.language else "detector" if kind.has_places else "encoder"


@dataclass
class Step:
    """What one step comes to."""

    loss: float
    count: int
    gradients: dict[str, torch.Tensor]


def stepped(
    objective: Any,
    model: nn.Module,
    companions: dict[str, nn.Module],
    split: PreparedSplit,
    ranks: int,
    micro: int | None,
) -> Step:
    """Return the loss and the gradients of the batch, over so many ranks and micro-batches of so many rows."""
    meeting, given, said = threading.Barrier(ranks), [None] * ranks, [None] * ranks

    def work(rank: int) -> None:
        mine, group = copy.deepcopy(model), Rank(rank, ranks, torch.device("cpu"), meeting=meeting, given=given)
        asking = Asking(objective, mine, Collator.of(mine), group, companions=companions, micro_batch_size=micro)
        pieces, count = asking.pieces(split, BATCH)
        total = 0.0
        for piece in pieces:
            loss = asking.loss(split, piece).total * float(piece.counts)
            (loss / count).backward()
            total += float(loss.detach())
        gradients = {name: p.grad for name, p in mine.named_parameters() if p.grad is not None}
        said[rank] = Step(total / count, count, gradients)  # type: ignore[call-overload]

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    steps: list[Any] = [one for one in said if one is not None]
    assert len(steps) == ranks
    names = {name for one in steps for name in one.gradients}
    gradients = {name: sum(one.gradients[name] for one in steps if name in one.gradients) for name in names}
    return Step(sum(one.loss for one in steps), steps[0].count, gradients)


def asked(objective_class: type[Any]) -> tuple[Any, Kind, tuple[str, ...]]:
    """Return the objective, the first kind of rows that it learns from, and the labels of a head for them."""
    objective = objective_class(**FIELDS.get(objective_class.model_fields["kind"].default, {}))
    kind = next(kind for kind in KINDS.values() if kind.taught_as == objective.needs)
    return objective, kind, TAGS if kind.whole_tags else LABELS if kind.labeled else ()


def check(objective_class: type[Any], tuning: str, folder: Path, splits: Sequence[tuple[int, int | None]]) -> None:
    objective, kind, labels = asked(objective_class)
    split = rows_for(objective, folder, labels)
    plain = model_for(kind.name, folder, labels, seed=1)
    model = TUNINGS[tuning].prepare(plain, kind.name, head_modules(plain)).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn(parameter.shape)
    others = (*getattr(objective, "companions", ()), *([START] if getattr(objective, "writes", False) else []))
    companions = {name: model_for(kind.name, folder, labels, seed=2 + i).eval() for i, name in enumerate(others)}
    whole = stepped(objective, model, companions, split, 1, None)
    assert whole.count > 0
    assert sum(float(g.abs().sum()) for g in whole.gradients.values()) > 1e-3
    largest = max(float(g.abs().max()) for g in whole.gradients.values())
    for ranks, micro in splits:
        other = stepped(objective, model, companions, split, ranks, micro)
        assert other.count == whole.count
        assert other.loss == pytest.approx(whole.loss, rel=1e-4, abs=1e-6)
        for name, gradient in whole.gradients.items():
            torch.testing.assert_close(other.gradients[name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)


@each_objective
def test_micro_batches_and_ranks_change_no_gradient(objective: type[Any], folder: Path) -> None:
    """Each with one of the tunings, in turn; two ranks of which one has more rows, in micro-batches."""
    check(objective, [*TUNINGS][OBJECTIVES.index(objective) % 2], folder, [(2, 4)])


@pytest.mark.slow
@pytest.mark.parametrize("tuning", TUNINGS)
@each_objective
def test_no_split_of_a_batch_changes_a_gradient(
    objective: type[Any], tuning: str, folder: Path, tmp_path: Path
) -> None:
    for name in ("decoder", "encoder", "pipeline", "detector"):
        (tmp_path / name).symlink_to(folder / name)
    check(objective, tuning, tmp_path, [(1, 1), (1, 4), (2, None), (2, 1), (3, 2)])


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [one for one in OBJECTIVES if one.model_fields["kind"].default != "denoising"],  # test_denoising.py
    ids=lambda one: one.model_fields["kind"].default,
)
def test_a_stopped_training_ends_in_the_same_bits(objective: type[Any], folder: Path, tmp_path: Path) -> None:
    """In micro-batches, with dropout where the models have some, stopped in the middle of the second epoch."""
    member, kind, labels = asked(objective)
    if kind.has_places:
        (tmp_path / "detector").symlink_to(folder / "detector")
        data = boxed(tmp_path, {"train": 24, "validation": 8})
    else:
        rows = ROWS[kind.name](32)
        data = tiny_prepared(tmp_path / "rows", {"train": rows[:24], "validation": rows[24:]}, kind=kind.name)
    labels = data.labels or labels
    source = shutil.copytree(folder / source_of(kind), tmp_path / "model")
    weights, generator = load_file(source / "model.safetensors"), torch.Generator().manual_seed(5)
    for weight in weights.values():  # freshly made ones are so small that every row gets the same answer
        weight += 0.05 * torch.randn(weight.shape, generator=generator)
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    model = find_model(ModelRef(path=str(source)))
    start = base(BaseJob(model=model, kind=kind.name, labels=labels, seed=1), Workspace(tmp_path))
    compute = Compute(workers=0, threads=1, micro_batch_size=5, checkpoint_seconds=3600.0)
    for name in getattr(member, "scores", ()):
        facts: dict[str, Any] = {"tokenizer": start.tokenizer, "labels": labels, "precision": "fp32"}
        data = score(ScoreJob(name=name, model=start, data=data, compute=compute, **facts), Workspace(tmp_path))
    tuning = [*TUNINGS.values()][OBJECTIVES.index(objective) % 2]
    optimizer = {"learning_rate": 1e-3, "epochs": 3, "batch_size": 8}
    phase = {"name": "tune", "dataset": "d", "objective": member, "tuning": tuning, "optimizer": optimizer}
    job = TrainJob(
        start=start,
        data=data,
        phase=Phase.model_validate(phase),
        precision="fp32",
        seed=3,
        compute=compute,
        companions=dict.fromkeys(getattr(member, "companions", ()), model),
    )
    with stopped_at(4):
        train(job, Workspace(tmp_path / "stopped"))
    resumed, whole = train(job, Workspace(tmp_path / "stopped")), train(job, Workspace(tmp_path / "whole"))
    assert resumed.facts["resumed_from_step"] == 4
    assert resumed.weights == whole.weights != start.weights
    curve, other = (curves.read(one.path / curves.FILE) for one in (resumed, whole))
    assert [one.get("loss", one.get("validation_loss")) for one in curve] == [
        one.get("loss", one.get("validation_loss")) for one in other
    ]
