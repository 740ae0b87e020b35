"""Numbers of a frozen model, computed once for every row: against stock models, and trained on as with it in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch
from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification

from ftlib.config import BatchKind, Config
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import ModelError
from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.models.adapter import find_any
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.reference import ModelRef
from ftlib.stages.score import ScoreJob, score
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_adapter, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

# No union knows these objectives, so pydantic doubts what it writes into plan.json.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
COMPUTE = Compute(workers=0, threads=1)


def divergence(teacher: torch.Tensor, student: torch.Tensor) -> LossSum:
    logs = student.float().log_softmax(-1), teacher.float().log_softmax(-1)
    return LossSum(nn.functional.kl_div(*logs, reduction="sum", log_target=True), len(student))


class FromColumn(Config):
    kind: Literal["from_column"] = "from_column"
    needs: ClassVar[BatchKind] = "labeled"
    scores: ClassVar[tuple[str, ...]] = ("teacher",)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        return divergence(batch.columns["teacher"], model(**batch.inputs).logits)


class FromCompanion(Config):
    kind: Literal["from_companion"] = "from_companion"
    needs: ClassVar[BatchKind] = "labeled"
    companions: ClassVar[tuple[str, ...]] = ("teacher",)

    def loss(self, model: Any, batch: Batch, companions: Any) -> LossSum:
        return divergence(companions["teacher"](**batch.inputs).logits, model(**batch.inputs).logits)


def asked(model: Checkpoint, data: PreparedDataset, **changes: Any) -> ScoreJob:
    facts = {"tokenizer": model.tokenizer, "labels": model.labels, "precision": "fp32", "compute": COMPUTE}
    return ScoreJob(**{"name": "teacher", "model": model, "data": data, **facts, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = tiny_rows(60)
    splits = {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}
    return tiny_prepared(tmp_path_factory.mktemp("data"), splits)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("teacher"), seed=1)


def test_training_on_a_teachers_column_is_training_beside_the_teacher(
    data: PreparedDataset, teacher: Checkpoint, tmp_path: Path
) -> None:
    work, start = Workspace(tmp_path), tiny_checkpoint(tmp_path / "start")
    scored = score(asked(teacher, data), work)
    assert scored.digest() != data.digest()
    assert scored.splits == data.splits
    split = open_split(split_file(scored.path, "train"), LABELS)
    stock = load_model(teacher.folder, "labeled")
    with torch.no_grad():
        rows = [torch.tensor(split.tokens(i)).long()[None] for i in range(len(split))]
        expected = torch.cat([stock(input_ids=ids).logits for ids in rows]).numpy()
    np.testing.assert_allclose(split.scores["teacher"].tensor(np.arange(len(split))), expected, rtol=1e-4, atol=1e-5)
    before = pa.ipc.open_file(str(split_file(data.path, "train"))).read_all()
    after = pa.ipc.open_file(str(split_file(scored.path, "train"))).read_all()
    assert after.drop_columns(["score:teacher"]).equals(before)
    assert after.schema.metadata == before.schema.metadata

    losses = []
    for objective, rows, beside in ((FromColumn(), scored, {}), (FromCompanion(), data, {"teacher": teacher})):
        phase = Phase.model_validate(
            {
                "name": "tune",
                "dataset": "d",
                "objective": {"kind": "classification"},
                "tuning": {"kind": "full"},
                "optimizer": {"learning_rate": 1e-3, "epochs": 2, "batch_size": 8},
                "dropout": 0.0,
            }
        ).model_copy(update={"objective": objective})
        job = TrainJob(
            start=start, data=rows, phase=phase, precision="fp32", seed=7, compute=COMPUTE, companions=beside
        )
        records = curves.read(train(job, work).path / curves.FILE)
        losses.append([record.get("loss", record.get("validation_loss")) for record in records])
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_an_adapter_scores_as_the_model_that_it_makes_of_its_base(
    data: PreparedDataset, teacher: Checkpoint, tmp_path: Path
) -> None:
    adapter = tiny_adapter(tmp_path / "adapter", teacher)
    base = AutoModelForSequenceClassification.from_pretrained(teacher.folder)
    stock: Any = PeftModel.from_pretrained(base, adapter.folder)
    merged = stock.merge_and_unload().eval()
    columns: dict[str, np.ndarray] = {}
    found = find_any(ModelRef(path=str(adapter.folder)))
    assert (found.form, found.base) == ("adapter", adapter.base)
    for name, model in (("adapter", adapter), ("found", found), ("base", teacher)):
        job = asked(teacher, data, name=name).model_copy(update={"model": model, "tokenizer": model.tokenizer})
        split = open_split(split_file(score(job, Workspace(tmp_path)).path, "train"), LABELS)
        columns[name] = split.scores[name].tensor(np.arange(len(split))).numpy()
    rows = open_split(split_file(data.path, "train"), LABELS)
    with torch.no_grad():
        each = [merged(input_ids=torch.tensor(rows.tokens(i)).long()[None]).logits for i in range(len(rows))]
    np.testing.assert_allclose(columns["adapter"], torch.cat(each).numpy(), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(columns["found"], columns["adapter"])
    assert np.abs(columns["adapter"] - columns["base"]).max() > 0.1


def test_a_split_that_a_killed_attempt_finished_is_not_scored_again(
    data: PreparedDataset, teacher: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ftlib.evaluation import row_scores

    asked_rows: list[int] = []
    whole = score(asked(teacher, data), Workspace(tmp_path / "whole"))

    def counting(model: Any, split: Any, *rest: Any) -> np.ndarray:
        asked_rows.append(len(split))
        if len(split) == 10 and len(asked_rows) == 2:
            raise KeyboardInterrupt
        return once(model, split, *rest)

    once = row_scores.score_rows
    monkeypatch.setattr(row_scores, "score_rows", counting)
    with pytest.raises(KeyboardInterrupt):
        score(asked(teacher, data), Workspace(tmp_path / "stopped"))
    resumed = score(asked(teacher, data), Workspace(tmp_path / "stopped"))
    assert asked_rows == [40, 10, 10]
    assert resumed.digest() == whole.digest()


def test_a_language_models_column_is_the_log_probability_of_each_row(tmp_path: Path) -> None:
    texts = tiny_prepared(tmp_path / "data", {"train": tiny_rows(9)}, kind="tokens")
    model = tiny_checkpoint(tmp_path / "model", ())
    scored = score(asked(model, texts), Workspace(tmp_path))
    split, stock = open_split(split_file(scored.path, "train"), ()), load_model(model.folder, "tokens")
    for i, value in enumerate(split.scores["teacher"].tensor(np.arange(len(split)))):
        ids = torch.tensor(split.tokens(i)).long()[None]
        with torch.no_grad():
            expected = -float(stock(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        assert float(value) == pytest.approx(expected, rel=1e-5)


def test_what_identifies_a_score_is_model_rows_name_and_precision(data: PreparedDataset, teacher: Checkpoint) -> None:
    job = asked(teacher, data)
    same = asked(teacher.model_copy(update={"uri": "/elsewhere"}), data, compute=Compute(workers=4))
    assert same.fingerprint == job.fingerprint
    for changes in ({"name": "other"}, {"precision": "bf16"}, {"labels": LABELS[::-1]}):
        assert asked(teacher, data, **changes).fingerprint != job.fingerprint


@pytest.mark.parametrize("changes", [{"tokenizer": "other"}, {"labels": LABELS[::-1]}])
def test_a_model_that_answers_another_question_is_refused(
    data: PreparedDataset, teacher: Checkpoint, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ModelError, match=r"score teacher: its (tokenizer|labels)"):
        score(asked(teacher, data, **changes), Workspace(tmp_path))
