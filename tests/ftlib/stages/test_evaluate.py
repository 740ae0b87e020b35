"""The numbers of an evaluation against a plain transformers loop; what is computed once; every refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from ftlib import progress
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import PreparedRow, split_file, write_split
from ftlib.errors import DataError, ModelError, StorageError
from ftlib.evaluation import forward_pass, predictor
from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.metrics import Accuracy, BitsPerByte, LogLoss, MacroF1, Perplexity
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.merging.candidate_weights import write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation import WiseFT
from ftlib.merging.interpolation.ends import Ends
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_row_id, tiny_rows, tiny_tokenizer
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

EVALUATION = Evaluation(dataset="rows", metrics=(Accuracy(), MacroF1(), LogLoss()), resamples=200)
ROWS = [
    {**row, "text": f"{row['text']} " * (1 + i % 4)}
    for i, row in enumerate(tiny_rows(40))  # of very different lengths
]


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    folder = tmp_path_factory.mktemp("ends")
    start = tiny_checkpoint(folder / "start", phase="probe")
    return start, tiny_checkpoint(folder / "end", phase="tune", start=start, seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"test": ROWS, "validation": ROWS[:10]})


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Count the passes over a split."""
    passes: list[int] = []
    real = forward_pass.predict_split

    def counted(*args: object, **named: object) -> object:
        passes.append(1)
        return real(*args, **named)

    monkeypatch.setattr(predictor, "predict_split", counted)
    return passes


def job(data: PreparedDataset, *candidates: Candidate, **update: object) -> EvaluateJob:
    whole = EvaluateJob(
        name="target",
        evaluation=EVALUATION,
        candidates=candidates,
        data=data,
        split="test",
        seed=0,
        compute=Compute(threads=1),
    )
    return whole.model_copy(update=update)


def plain_loop(folder: Path, rows: list[dict[str, str]]) -> np.ndarray:
    """Return logits row by row, as a reader of transformers' documentation would get them."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), tiny_tokenizer()
    with torch.no_grad():
        return np.stack([model(**tokenizer(str(row["text"]), return_tensors="pt")).logits[0] for row in rows])


def test_every_number_equals_a_plain_transformers_loop(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, work: Workspace, tmp_path: Path
) -> None:
    half = Candidate.between(*ends, 0.5)
    report = evaluate(job(data, half), work)
    write_candidate(half, tmp_path / "half")
    logits = plain_loop(tmp_path / "half", ROWS)
    probabilities = scipy.special.softmax(logits.astype(np.float64), axis=1)
    gold = [LABELS.index(str(row["label"])) for row in ROWS]

    cell = report.of("alpha=0.5", "target", "test")
    table = read_outcomes(work.root / cell.outcomes)
    assert table.labels == LABELS
    assert table.row_ids == tuple(tiny_row_id("test", i) for i in range(len(ROWS)))
    assert table.gold.tolist() == gold
    assert table.predicted.tolist() == logits.argmax(axis=1).tolist()
    np.testing.assert_allclose(table.probabilities, probabilities, atol=1e-6)
    np.testing.assert_allclose(table.nll, -np.log(probabilities[range(len(gold)), gold]), atol=1e-5)
    assert cell.metrics["accuracy"].value == sklearn.metrics.accuracy_score(gold, logits.argmax(axis=1))
    assert cell.metrics["log_loss"].value == pytest.approx(
        sklearn.metrics.log_loss(gold, probabilities, labels=[0, 1, 2]), abs=1e-6
    )
    assert (cell.rows, cell.alpha, cell.evaluation) == (len(ROWS), 0.5, "target")


def test_perplexity_equals_a_plain_transformers_loop(work: Workspace, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoint(tmp_path / "lm", ())
    data = tiny_prepared(tmp_path / "data", {"test": ROWS}, kind="tokens")
    evaluation = Evaluation(dataset="rows", metrics=(Perplexity(), BitsPerByte()), resamples=100)
    report = evaluate(job(data, Candidate.of(checkpoint), evaluation=evaluation), work)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint.path / "model"), tiny_tokenizer()
    total, count = 0.0, 0
    for row in ROWS:
        ids = tokenizer(str(row["text"]), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    cell = report.of("base", "target", "test")
    assert cell.metrics["perplexity"].value == pytest.approx(np.exp(total / count), rel=1e-5)
    table = read_outcomes(work.root / cell.outcomes)
    assert table.targets.sum() == count == data.splits["test"].supervised
    # The tiny tokenizer splits numbers and lower-cases, but loses no byte but the blanks around "-" and pieces.
    squeezed = [str(row["text"]).replace(" ", "").replace("-", "") for row in ROWS]
    decoded = [tokenizer.decode(tokenizer(str(row["text"]))["input_ids"][1:-1]) for row in ROWS]
    assert [text.replace(" ", "").replace("-", "") for text in decoded] == squeezed
    assert table.target_bytes.tolist() == [len(text.encode()) for text in decoded]
    assert cell.metrics["bits_per_byte"].value == pytest.approx(total / np.log(2) / sum(map(len, decoded)), rel=1e-5)


def test_how_rows_are_batched_changes_nothing_that_matters(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(ends[1].path / "model", "labeled")
    split = open_split(split_file(data.path, "test"), LABELS)
    together = forward_pass.predict_split(model, split, LABELS, tiny_tokenizer)
    monkeypatch.setattr(forward_pass, "ROWS", 1)
    alone = forward_pass.predict_split(model, split, LABELS, tiny_tokenizer)
    assert together.row_ids == alone.row_ids
    np.testing.assert_allclose(together.probabilities, alone.probabilities, atol=1e-6)
    assert (together.predicted == alone.predicted).all()


def test_the_same_weights_and_rows_are_never_run_twice(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, work: Workspace, forwards: list[int]
) -> None:
    evaluate(job(data, Candidate.of(ends[0])), work)
    assert len(forwards) == 1
    sweep = WiseFT(alphas=(0.0, 0.5, 1.0)).points(Ends(*ends))
    report = evaluate(job(data, *sweep), work)
    assert len(forwards) == 3  # alpha 0 is the checkpoint measured before
    again = evaluate(job(data, *sweep, Candidate.of(ends[1]), name="again"), work)
    assert len(forwards) == 3
    values = [[cell.metrics for cell in r.measured] for r in (report, again)]
    assert values[0] == values[1][:3]
    assert values[1][3] == values[1][2]
    evaluate(job(data, *sweep, split="validation"), work)
    assert len(forwards) == 6


def test_a_finished_job_reads_its_record_and_a_new_name_is_a_new_job(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, work: Workspace
) -> None:
    first = job(data, Candidate.of(ends[0]))
    assert evaluate(first, work) == evaluate(first, work)
    renamed = job(data, Candidate.of(ends[0].model_copy(update={"phase": "warm-up"})))
    assert evaluate(renamed, work).measured[0].candidate == "warm-up"


def test_a_sweep_measures_what_would_be_written(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, work: Workspace, tmp_path: Path
) -> None:
    sweep = WiseFT(alphas=(0.2, 0.7)).points(Ends(*ends))
    report = evaluate(job(data, *sweep), work)
    assert [cell.alpha for cell in report.measured] == [0.0, 0.2, 0.7, 1.0]
    for candidate, cell in zip(sweep, report.measured, strict=True):
        write_candidate(candidate, tmp_path / candidate.name)
        model = load_model(tmp_path / candidate.name, "labeled")
        split = open_split(split_file(data.path, "test"), LABELS)
        written = forward_pass.predict_split(model, split, LABELS, tiny_tokenizer)
        assert (read_outcomes(work.root / cell.outcomes).probabilities == written.probabilities).all()


def test_a_slice_is_measured_as_if_its_rows_were_all(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, work: Workspace, tmp_path: Path
) -> None:
    tokenizer = tiny_tokenizer()
    rows = [
        PreparedRow(
            f"r{i}",
            {"input_ids": tokenizer(str(row["text"]))["input_ids"]},
            str(row["label"]),
            ("short" if i % 4 < 2 else "long",),
        )
        for i, row in enumerate(ROWS)
    ]
    write_split(split_file(tmp_path, "test"), "labeled", rows, ["length"])
    sliced = data.model_copy(update={"uri": str(tmp_path), "content": "sliced"})
    cell = evaluate(job(sliced, Candidate.of(ends[0])), work).measured[0]
    assert {name: facts.rows for name, facts in cell.slices.items()} == {"length=long": 20, "length=short": 20}
    table = read_outcomes(work.root / cell.outcomes)
    short = table.take(np.array([i for i in range(len(ROWS)) if i % 4 < 2]))
    assert cell.slices["length=short"].metrics == estimates(short, EVALUATION.metrics, Resampling(200, 0.95, 0))
    parts = [facts.rows * facts.metrics["accuracy"].value for facts in cell.slices.values()]
    assert sum(parts) == pytest.approx(cell.rows * cell.metrics["accuracy"].value)


def test_progress_counts_every_row_of_every_candidate(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, work: Workspace
) -> None:
    seen: list[progress.Progress] = []
    with progress.listen(seen.append):
        evaluate(job(data, *WiseFT(alphas=(0.5,)).points(Ends(*ends))), work)
    assert {(p.stage, p.total, p.unit) for p in seen} == {("evaluate target", 120, "rows")}
    assert seen[-1].done == 120


@pytest.mark.parametrize(
    ("message", "update"),
    [
        ("has no train rows", {"split": "train"}),
        ("was prepared for another model", {"data": {"tokenizer": "another"}}),
    ],
)
def test_rows_that_cannot_be_measured_are_refused(
    ends: tuple[Checkpoint, Checkpoint],
    data: PreparedDataset,
    work: Workspace,
    message: str,
    update: dict[str, object],
) -> None:
    wanted = job(data, Candidate.of(ends[0]))
    if isinstance(of_data := update.get("data"), dict):
        update = {"data": data.model_copy(update=of_data)}
    with pytest.raises(DataError, match=message):
        evaluate(wanted.model_copy(update=update), work)
    assert not (work.root / "outcomes").exists()


def test_a_label_the_model_does_not_know_is_named(data: PreparedDataset, work: Workspace, tmp_path: Path) -> None:
    other = tiny_checkpoint(tmp_path / "other", ("billing", "refund", "sales"))
    with pytest.raises(DataError, match="'base' has no label 'bug'; it has billing, refund, sales"):
        evaluate(job(data, Candidate.of(other)), work)


def test_labels_are_matched_by_name_and_not_by_position(data: PreparedDataset, work: Workspace, tmp_path: Path) -> None:
    turned = tiny_checkpoint(tmp_path / "turned", tuple(reversed(LABELS)))
    cell = evaluate(job(data, Candidate.of(turned)), work).measured[0]
    table = read_outcomes(work.root / cell.outcomes)
    assert [table.labels[i] for i in table.gold] == [row["label"] for row in ROWS]


def test_weights_that_overflow_are_refused_with_a_row(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, work: Workspace
) -> None:
    model = load_model(ends[0].path / "model", "labeled")
    with torch.no_grad():
        next(model.parameters())[10:].fill_(float("inf"))
    split = open_split(split_file(data.path, "test"), LABELS)
    with pytest.raises(ModelError, match=f"not finite on 40 of 40 rows, first on row {tiny_row_id('test', 0)}"):
        forward_pass.predict_split(model, split, LABELS, tiny_tokenizer)


def test_a_damaged_table_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(StorageError, match="is not a table of outcomes"):
        read_outcomes(tmp_path / "x.parquet")
    with pytest.raises(StorageError, match="is not a table of outcomes"):
        read_outcomes(tmp_path / "absent.parquet")


def test_threads_are_what_the_recipe_grants_and_are_given_back() -> None:
    before = torch.get_num_threads()
    with forward_pass.resources(Compute(threads=1, workers=1)) as device:
        assert torch.get_num_threads() == 1
        assert device.type == "cpu"
    assert torch.get_num_threads() == before
