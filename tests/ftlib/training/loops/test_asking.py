"""Objectives that ask more than the model: a frozen teacher beside it, sums over the whole batch before the loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from ftlib.config import BatchKind, Config
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError, TrainingError
from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.writing import copy_beside
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_adapter, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import global_batches
from ftlib.training.objectives.prepared import Context, Prepared
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

# No union knows these objectives, so pydantic doubts what it writes into plan.json.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
SURE = 0.382
"""So sure is the tiny model of about half of its answers."""


def logits_of(model: Any, batch: Batch) -> torch.Tensor:
    return model(**batch.inputs).logits.float()


class Distilled(Config):
    """Hinton's: the divergence of the student's softened answer from the teacher's, per row."""

    kind: Literal["distilled"] = "distilled"
    needs: ClassVar[BatchKind] = "labeled"
    companions: ClassVar[tuple[str, ...]] = ("teacher",)

    def loss(self, model: Any, batch: Batch, companions: Mapping[str, nn.Module]) -> LossSum:
        teacher, student = logits_of(companions["teacher"], batch) / 2, logits_of(model, batch) / 2
        sums = nn.functional.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True)
        return LossSum(4 * sums, len(batch))


class SelfTaught(Config):
    """COSINE's soft pseudo-labels, which need every answer to the batch, of the rows that it is sure of."""

    kind: Literal["self_taught"] = "self_taught"
    counts: bool = True
    needs: ClassVar[BatchKind] = "labeled"
    counts_known: ClassVar[bool] = False

    def prepare(self, model: Any, batch: Batch) -> Prepared:
        answer = logits_of(model, batch).softmax(-1)
        sure = answer.max(-1).values > SURE
        return Prepared({"each": answer.sum(0)}, count=int(sure.sum()) if self.counts else None, kept=(answer, sure))

    def loss(self, model: Any, batch: Batch, context: Context) -> LossSum:
        answer, sure = context.kept
        soft = answer.square() / context.sums["each"]
        soft = soft / soft.sum(-1, keepdim=True)
        losses = -(soft * logits_of(model, batch).log_softmax(-1)).sum(-1)
        return LossSum((losses * sure).sum(), int(sure.sum()))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(50)
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"train": rows[:40], "validation": rows[40:]})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    return tuple(tiny_checkpoint(tmp_path_factory.mktemp("model"), seed=seed) for seed in (0, 1))


def job(
    start: Checkpoint,
    data: PreparedDataset,
    objective: Config,
    companions: Mapping[str, Checkpoint | FoundModel] | None = None,
    micro: int | None = None,
) -> TrainJob:
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": {"kind": "classification"},
            "tuning": {"kind": "full"},
            "optimizer": {"learning_rate": 1e-3, "epochs": 1, "batch_size": 8},
            "dropout": 0.0,
        }
    )
    return TrainJob(
        start=start,
        data=data,
        phase=phase.model_copy(update={"objective": objective}),
        precision="fp32",
        seed=7,
        compute=Compute(workers=0, threads=1, micro_batch_size=micro),
        companions=companions or {},
    )


def losses(done: Checkpoint, kind: str = "loss") -> list[float]:
    return [record[kind] for record in curves.read(done.path / curves.FILE) if kind in record]


def first_batch(data: PreparedDataset, model: nn.Module) -> Batch:
    split = open_split(data.path / "train.arrow", LABELS)
    return split.batch(global_batches(split.lengths, 8, 7, 0)[0], Collator.of(model))


def test_a_student_learns_from_a_frozen_teacher(
    models: tuple[Checkpoint, Checkpoint], data: PreparedDataset, tmp_path: Path
) -> None:
    start, teacher = models
    done = train(job(start, data, Distilled(), {"teacher": teacher}, micro=3), Workspace(tmp_path))
    student, wise = (load_model(one.folder, "labeled") for one in models)
    batch = first_batch(data, student)
    with torch.no_grad():
        p, q = (torch.softmax(logits_of(one, batch) / 2, -1) for one in (wise, student))
        expected = 4 * (p * (p / q).log()).sum(-1).mean()
    assert losses(done)[0] == pytest.approx(float(expected), rel=1e-4)
    assert losses(done)[-1] < losses(done)[0]
    ended = load_model(done.folder, "labeled")
    with torch.no_grad():
        after = Distilled().loss(ended, batch, {"teacher": wise}).total
        before = Distilled().loss(student, batch, {"teacher": wise}).total
    assert after < before
    nothing = train(job(teacher, data, Distilled(), {"teacher": teacher}), Workspace(tmp_path))
    assert losses(nothing)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_teacher_that_is_an_adapter_is_asked_as_the_model_that_it_makes(
    models: tuple[Checkpoint, Checkpoint], data: PreparedDataset, tmp_path: Path
) -> None:
    teacher = tiny_adapter(tmp_path / "teacher", models[1])
    base = AutoModelForSequenceClassification.from_pretrained(models[1].folder)
    stock: Any = PeftModel.from_pretrained(base, teacher.folder)
    merged = tmp_path / "dense"
    stock.merge_and_unload().save_pretrained(merged / "model")
    copy_beside(teacher.folder, merged / "model")
    dense = models[1].model_copy(update={"uri": str(merged), "weights": "merged"})
    runs = [train(job(models[0], data, Distilled(), {"teacher": one}), Workspace(tmp_path)) for one in (teacher, dense)]
    assert losses(runs[0]) == pytest.approx(losses(runs[1]), rel=1e-4)
    without = train(job(models[0], data, Distilled(), {"teacher": models[1]}), Workspace(tmp_path))
    assert losses(runs[0])[0] != pytest.approx(losses(without)[0], rel=1e-2)


def test_a_companion_counts_by_its_bytes(models: tuple[Checkpoint, Checkpoint], data: PreparedDataset) -> None:
    start, teacher = models
    asked = job(start, data, Distilled(), {"teacher": teacher})
    moved = teacher.model_copy(update={"uri": "/elsewhere"})
    assert job(start, data, Distilled(), {"teacher": moved}).fingerprint == asked.fingerprint
    assert job(start, data, Distilled(), {"teacher": start}).fingerprint != asked.fingerprint
    assert job(start, data, Distilled()).fingerprint != asked.fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"tokenizer": "other"},
            r"phases\[tune\].companions.teacher: its tokenizer or image processor is not the model's",
        ),
        ({"labels": LABELS[::-1]}, r"companions.teacher: its labels are sales, bug, billing, the model's billing, bug"),
        ({"uri": "/nowhere"}, "/nowhere/model"),
    ],
)
def test_a_companion_that_does_not_answer_the_same_question_is_refused(
    models: tuple[Checkpoint, Checkpoint], data: PreparedDataset, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    teacher = models[1].model_copy(update=change)
    with pytest.raises(ModelError, match=words):
        train(job(models[0], data, Distilled(), {"teacher": teacher}), Workspace(tmp_path))


def test_what_is_prepared_and_counted_does_not_depend_on_how_a_batch_is_split(
    models: tuple[Checkpoint, Checkpoint], data: PreparedDataset, tmp_path: Path
) -> None:
    start = models[0]
    ends = [
        train(job(start, data, SelfTaught(), micro=micro), Workspace(tmp_path / str(micro))) for micro in (None, 1, 3)
    ]
    for kind in ("loss", "validation_loss"):
        for other in ends[1:]:
            assert losses(other, kind) == pytest.approx(losses(ends[0], kind), rel=1e-4)
    model = load_model(start.folder, "labeled")
    with torch.no_grad():
        answer = torch.softmax(logits_of(model, first_batch(data, model)), -1)
    sure = answer.max(-1).values > SURE
    assert 0 < int(sure.sum()) < 8
    soft = answer**2 / answer.sum(0)
    soft = soft / soft.sum(-1, keepdim=True)
    expected = -(soft * answer.log()).sum(-1)[sure].mean()
    assert losses(ends[0])[0] == pytest.approx(float(expected), rel=1e-4)


def test_an_objective_that_should_count_and_does_not_is_an_error(
    models: tuple[Checkpoint, Checkpoint], data: PreparedDataset, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="its `prepare` gives none; return a Prepared with a count"):
        train(job(models[0], data, SelfTaught(counts=False)), Workspace(tmp_path))
