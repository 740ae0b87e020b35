"""Heads of several labels and of a number: against stock transformers, and whatever the split of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, pipeline

from ftlib.config import BatchKind
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import PreparedRow, write_split
from ftlib.errors import DataError
from ftlib.evaluation.forward_pass import predict_split
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import MultiLabelOutcomes, ScoreOutcomes
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_classifier, tiny_multi_label_rows, tiny_prepared, tiny_scored_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import micro_batches
from ftlib.training.objectives import Objective
from ftlib.training.objectives.multi_label import MultiLabel
from ftlib.training.objectives.regression import Regression
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace


@dataclass
class Kind:
    """One kind of batch, made ready to train."""

    kind: BatchKind
    objective: Objective
    labels: tuple[str, ...]
    rows: list[Any]
    start: Checkpoint
    data: PreparedDataset

    def split(self, name: str = "train") -> PreparedSplit:
        return open_split(self.data.path / f"{name}.arrow", self.labels)

    def gold(self, rows: list[Any]) -> np.ndarray:
        if self.kind == "scored":
            return np.array([row["score"] for row in rows])
        return np.array([[label in row["labels"] for label in self.labels] for row in rows])

    def stock(self) -> Any:
        """The checkpoint as someone without our code loads it."""
        return AutoModelForSequenceClassification.from_pretrained(self.start.path / "model").eval()

    def train(self, root: Path, tuning: Any = None, **compute: Any) -> Checkpoint:
        phase = Phase(
            name="tune",
            dataset="d",
            objective=self.objective,
            tuning=tuning or Full(),
            optimizer=AdamW(learning_rate=3e-3, epochs=2, batch_size=16),
            dropout=0.0,
        )
        run = Compute.model_validate({"workers": 0, "threads": 1, **compute})
        job = TrainJob(start=self.start, data=self.data, phase=phase, precision="fp32", seed=7, compute=run)
        return train(job, Workspace(root))


@pytest.fixture(scope="module", params=["multi_labeled", "scored"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kind:
    folder, kind = tmp_path_factory.mktemp(request.param), request.param
    rows = tiny_multi_label_rows(72) if kind == "multi_labeled" else tiny_scored_rows(72)
    labels = LABELS if kind == "multi_labeled" else ()
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    start = base(BaseJob(model=model, kind=kind, labels=labels, seed=1), Workspace(folder))
    splits = {"train": rows[:40], "validation": rows[40:56], "test": rows[56:]}
    data = tiny_prepared(folder / "data", splits, kind=kind)
    objective = MultiLabel() if kind == "multi_labeled" else Regression()
    return Kind(kind, objective, labels, rows, start, data)


def test_the_loss_is_stock_transformers_own(made: Kind) -> None:
    split, stock = made.split(), made.stock()
    batch = split.batch(range(8), Collator.of(stock))
    labels = torch.tensor(made.gold(made.rows[:8]), dtype=torch.float32)
    with torch.no_grad():
        ours = made.objective.loss(stock, batch)
        theirs = stock(**batch.inputs, labels=labels).loss
    assert ours.count == 8 == int(split.supervised[:8].sum())
    assert float(ours.total) / ours.count == pytest.approx(float(theirs), rel=1e-5)


@settings(max_examples=20)
@given(size=st.integers(1, 40), world=st.integers(1, 4), micro=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_loss_is_the_sum_over_any_workers_and_pieces(
    made: Kind, size: int, world: int, micro: int, seed: int
) -> None:
    split, model = made.split(), made.stock()
    rows = np.random.default_rng(seed).permutation(40)[:size]

    def loss(some: np.ndarray) -> float:
        return float(made.objective.loss(model, split.batch(some, Collator.of(model))).total)

    with torch.no_grad():
        pieces = [piece for rank in range(world) for piece in micro_batches(rows, rank, world, micro)]
        assert sum(loss(piece) for piece, counts in pieces if counts) == pytest.approx(loss(rows), rel=1e-4)


def test_the_split_of_a_batch_changes_no_step_and_training_learns(made: Kind, tmp_path: Path) -> None:
    whole = made.train(tmp_path / "whole")
    split = made.train(tmp_path / "split", micro_batch_size=3)
    assert whole.fingerprint == split.fingerprint
    losses = [[r["loss"] for r in curves.read(c.path / curves.FILE) if "loss" in r] for c in (whole, split)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    assert np.mean(losses[0][3:]) < np.mean(losses[0][:3])  # the second epoch and the first


def test_what_a_model_says_is_what_stock_transformers_computes(made: Kind, tmp_path: Path) -> None:
    split, stock = made.split("test"), made.stock()
    outcomes = predict_split(load_model(made.start.path / "model", made.kind), split, made.labels, lambda: None)
    with torch.no_grad():
        logits = [stock(input_ids=torch.tensor(split.tokens(i)).long()[None]).logits[0] for i in range(len(split))]
    said, gold = torch.stack(logits).double().numpy(), made.gold(made.rows[56:])
    if isinstance(outcomes, ScoreOutcomes):
        np.testing.assert_allclose(outcomes.predicted, said[:, 0], atol=1e-5)
        np.testing.assert_allclose(outcomes.nll, 0.5 * (said[:, 0] - gold) ** 2 + 0.5 * np.log(2 * np.pi), atol=1e-5)
    else:
        assert isinstance(outcomes, MultiLabelOutcomes)
        probabilities = 1 / (1 + np.exp(-said))
        np.testing.assert_allclose(outcomes.probabilities, probabilities, atol=1e-6)
        likelihood = np.where(gold, probabilities, 1 - probabilities)
        np.testing.assert_allclose(outcomes.nll, -np.log(likelihood).sum(axis=1), atol=1e-5)
        assert (outcomes.targets == len(made.labels)).all()
    assert (outcomes.gold == gold).all()

    (tmp_path / "table").write_bytes(outcomes.to_parquet())
    back = read_outcomes(tmp_path / "table")
    assert type(back) is type(outcomes)
    for field in ("gold", "predicted", "nll", "targets"):
        np.testing.assert_array_equal(getattr(back, field), getattr(outcomes, field))
    assert back.take(np.array([3, 3, 0])).row_ids == (outcomes.row_ids[3], outcomes.row_ids[3], outcomes.row_ids[0])
    if isinstance(outcomes, MultiLabelOutcomes):
        assert pq.read_table(tmp_path / "table")["gold"].to_pylist() == [
            [label for label in LABELS if label in row["labels"]] for row in made.rows[56:]
        ]


def test_lora_trains_the_head_in_full_and_is_merged(made: Kind, tmp_path: Path) -> None:
    tuned = made.train(tmp_path, LoRA(rank=2, alpha=8))
    plain = AutoModelForSequenceClassification.from_pretrained(tuned.path / "model").eval()
    adapted = PeftModel.from_pretrained(made.stock(), tuned.path / "adapter").eval()
    assert adapted.peft_config["default"].task_type == "SEQ_CLS"
    ids = torch.arange(5, 45).reshape(4, 10)
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, adapted(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
    assert not torch.equal(plain.classifier.weight, made.stock().classifier.weight)


def test_a_stock_pipeline_knows_what_the_numbers_are(made: Kind) -> None:
    """The config says the problem: sigmoids for labels, the number as it is for regression."""
    text = made.rows[5]["text"]
    (said,) = pipeline("text-classification", model=str(made.start.path / "model"), top_k=None)([text])
    row = PreparedRow("a", {"input_ids": made.split().tokens(5).tolist()})
    with torch.no_grad():
        logits = made.stock()(input_ids=torch.tensor(row.inputs["input_ids"])[None]).logits[0]
    expected = logits.sigmoid() if made.kind == "multi_labeled" else logits
    assert {one["label"] for one in said} == {*(made.labels or ("LABEL_0",))}
    assert sorted(one["score"] for one in said) == pytest.approx(sorted(expected.tolist()), rel=1e-4)


def test_a_label_among_several_that_the_model_lacks_is_named(tmp_path: Path) -> None:
    rows = [PreparedRow("a", {"input_ids": [1, 2]}, ("bug", "refund")), PreparedRow("b", {"input_ids": [1, 2]}, ())]
    write_split(tmp_path / "rows.arrow", "multi_labeled", rows)
    with pytest.raises(DataError, match="the model has no label 'refund'"):
        open_split(tmp_path / "rows.arrow", ("bug", "sales"))


@pytest.mark.parametrize("kind", ["multi_labeled", "scored"])
def test_an_empty_split_is_a_file_like_any_other(tmp_path: Path, kind: BatchKind) -> None:
    write_split(tmp_path / "rows.arrow", kind, [])
    assert len(open_split(tmp_path / "rows.arrow", ("bug",))) == 0
