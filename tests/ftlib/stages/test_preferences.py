"""Preferences through the stages: rows, the reference's scores, training from it, and what is measured of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftlib.config import BatchKind
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import DataError, TrainingError
from ftlib.evaluation.evaluation import Evaluation
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.stages.score import MEASURED, ScoreJob, score
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_chat_lm, tiny_checkpoint, tiny_preferences, tiny_prepared, tiny_thumbs, write_jsonl
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

COMPUTE = Compute(workers=0, threads=1)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A policy whose dropout is on whenever it is in training mode."""
    made = tiny_checkpoint(tmp_path_factory.mktemp("start"), ())
    config = made.weights_folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attention_dropout": 0.5}))
    return made


@pytest.fixture(scope="module", params=["preferences", pytest.param("judged", marks=pytest.mark.slow)])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    kind: BatchKind = request.param
    rows: Any = (tiny_preferences if kind == "preferences" else tiny_thumbs)(40)
    splits: Any = {"train": rows[:24], "validation": rows[24:32], "test": rows[32:]}
    return tiny_prepared(tmp_path_factory.mktemp(kind), splits, kind=kind)


def scored(start: Checkpoint, data: PreparedDataset, work: Workspace, **changes: Any) -> PreparedDataset:
    facts: dict[str, Any] = {"tokenizer": start.tokenizer, "labels": (), "precision": "fp32", "compute": COMPUTE}
    return score(ScoreJob(name="reference", model=start, data=data, **{**facts, **changes}), work)


def job(start: Checkpoint, data: PreparedDataset, tuning: str, **changes: Any) -> TrainJob:
    phase = {
        "name": "prefer",
        "dataset": "d",
        "objective": {"kind": "dpo" if data.kind == "preferences" else "kto", "beta": 1.0},
        "tuning": {"kind": tuning},
        "optimizer": {"learning_rate": 3e-3, "epochs": 2, "batch_size": 8},
    }
    given: dict[str, Any] = {"start": start, "data": data, "phase": Phase.model_validate(phase), "precision": "fp32"}
    return TrainJob(**{**given, "seed": 7, "compute": COMPUTE, "scored_by_start": ("reference",), **changes})


def losses(checkpoint: Checkpoint) -> list[float]:
    read = [json.loads(line) for line in (checkpoint.path / "curves.jsonl").read_text().splitlines()]
    return [row["loss"] for row in read if "loss" in row]


def test_a_policy_learns_from_its_start_and_is_measured_against_it(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    """Dropout or not, the first loss is that of a policy that is its reference; a killed run goes on to the bit."""
    work, pairs = Workspace(tmp_path / "work"), data.kind == "preferences"
    asked = job(start, scored(start, data, work), "full" if pairs else "lora")
    with stopped_at(3):
        train(asked, work)
    end, whole = train(asked, work), train(asked, Workspace(tmp_path / "whole"))
    assert end.facts["resumed_from_step"] == 3
    assert end.weights == whole.weights
    said = losses(whole)
    assert said[0] == pytest.approx(math.log(2) if pairs else 0.5, abs=1e-5)
    assert said[-1] < said[0]
    kinds = ["reward_margin", "reward_accuracy", "preference_margin"] if pairs else ["thumb_margin", "thumb_auroc"]
    rows = scored(start, data, work, splits=MEASURED)
    report = evaluate(
        EvaluateJob(
            name="d",
            evaluation=Evaluation.model_validate(
                {"dataset": "d", "metrics": [{"kind": kind} for kind in kinds], "resamples": 100}
            ),
            candidates=(Candidate.of(start), Candidate.of(end)),
            data=rows,
            split="test",
            seed=0,
            compute=COMPUTE,
        ),
        work,
    )
    before, after = ({name: one.value for name, one in cell.metrics.items()} for cell in report.measured)
    if pairs:
        assert (before["reward_margin"], before["reward_accuracy"]) == (0.0, 0.0)
        rise = float(after["preference_margin"] or 0) - float(before["preference_margin"] or 0)
        assert after["reward_margin"] == pytest.approx(rise, abs=1e-4)
    else:
        assert before["thumb_auroc"] == 0.5
        tables: Any = [read_outcomes(work.root / cell.outcomes) for cell in report.measured]
        gained, wanted = tables[0].nll - tables[1].nll, tables[0].wanted
        duels = np.sign(gained[wanted][:, None] - gained[~wanted])
        assert after["thumb_auroc"] == pytest.approx((duels.mean() + 1) / 2)


def test_rows_that_another_model_scored_end_the_run(start: Checkpoint, tmp_path: Path) -> None:
    """As where a reference is taken for the start that it is not."""
    work = Workspace(tmp_path / "work")
    data = tiny_prepared(tmp_path / "rows", {"train": tiny_preferences(16)}, kind="preferences")
    other = tiny_checkpoint(tmp_path / "other", (), seed=3)
    rows = scored(other, data, work)
    with pytest.raises(TrainingError, match=r"the first loss of 'dpo' is .*, and 0\.693147 \(± 0\.001 in fp32\)"):
        train(job(start, rows, "full"), work)
    train(job(start, rows, "full", scored_by_start=()), work)


def test_rows_are_others_where_only_those_of_the_test_set_were_scored_otherwise(
    start: Checkpoint, tmp_path: Path
) -> None:
    data = tiny_prepared(tmp_path / "rows", {"test": tiny_preferences(8)}, kind="preferences")
    other, work = tiny_checkpoint(tmp_path / "other", (), seed=3), Workspace(tmp_path / "work")
    assert scored(start, data, work, splits=MEASURED).content != scored(other, data, work, splits=MEASURED).content


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return find_model(ModelRef(path=str(tiny_chat_lm(tmp_path_factory.mktemp("model") / "lm"))))


def prepared(folder: Path, rows: list[dict[str, Any]], format: dict[str, Any], model: Any) -> PreparedDataset:
    work, path = Workspace(folder / "work"), write_jsonl(folder / "rows.jsonl", rows)
    source = {"kind": "files", "path": str(path), "settle_seconds": 0}
    limits = {"rows": 1, "dropped_rows": 0.9}
    dataset = Dataset.model_validate({"source": source, "format": format, "limits": limits})
    raw = ingest(IngestJob(name="d", source=dataset.source, files=dataset.source.pin(), limits=dataset.limits), work)
    facts: dict[str, Any] = {"raw": raw, "dataset": dataset, "model": model, "tokenizer": model.tokenizer}
    return preprocess(PreprocessJob(name="d", trains=True, **facts), work)


def test_contradictions_and_what_is_too_long_go_with_their_reason(tmp_path: Path, model: Any) -> None:
    rows: list[dict[str, Any]] = [*tiny_preferences(20)]
    first = rows[0]
    rows += [
        {**first, "chosen": first["rejected"], "rejected": first["chosen"]},
        {**rows[1]},
        {**rows[2], "rejected": rows[2]["chosen"]},
        {**rows[3], "prompt": "the bug " * 60},
        {**rows[4], "chosen": "ask again " * 60},
    ]
    format = {"kind": "preference", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected", "max_tokens": 60}
    data = prepared(tmp_path, rows, format, model)
    reasons = {"conflicting_labels": 2, "duplicate": 1, "equal_answers": 1, "prompt_too_long": 1, "answer_too_long": 1}
    assert data.ledger.dropped == reasons
    assert data.ledger.kept == 19
    split = open_split(split_file(data.path, "train"), ())
    assert data.audit.supervised == sum(
        int(end - first + last - other)
        for first, end, other, last in split.targets.places  # type: ignore[union-attr]
    )


def test_thumbs_that_are_all_alike_end_the_run(tmp_path: Path, model: Any) -> None:
    rows = [{**row, "label": "yes"} for row in tiny_thumbs(20)]
    format = {"kind": "thumb", "prompt": "prompt", "answer": "answer", "label": "label", "max_tokens": 60}
    with pytest.raises(DataError, match=r"all \d+ training rows have the thumb up, and nothing can be told"):
        prepared(tmp_path, rows, format, model)
