"""Measuring on Ray workers: the same numbers as in one process, whatever the number of workers, and after a loss."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import SPLITS, split_file
from ftlib.errors import ModelError
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.forward_pass import EVERYTHING, Share, batches_of
from ftlib.evaluation.metrics import Accuracy, LogLoss, Perplexity
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import CompletionOutcomes, LabelOutcomes, joined
from ftlib.kinds.outcomes_file import parse_outcomes, read_outcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.interpolation import WiseFT
from ftlib.merging.interpolation.ends import Ends
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import Progress, listen
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.score import ScoreJob, score
from ftlib.testing import LABELS, tiny_adapter, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace

ROWS = [{**row, "text": f"{row['text']} " * (1 + i % 5)} for i, row in enumerate(tiny_rows(150))]

METRICS = (Accuracy(), LogLoss())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return tiny_prepared(tmp_path_factory.mktemp("data"), {"test": ROWS})


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    folder = tmp_path_factory.mktemp("ends")
    start = tiny_checkpoint(folder / "start", phase="probe")
    return start, tiny_checkpoint(folder / "end", phase="tune", start=start, seed=1, moved=_upper)


def _upper(name: str) -> bool:
    """Leave the first layer as it was, so that candidates have it in common."""
    return not name.startswith(("bert.embeddings.", "bert.encoder.layer.0."))


@pytest.fixture(scope="module")
def ray_session() -> Iterator[None]:
    from ftlib.on_ray.session import session

    with session(Compute(evaluation_workers=3, threads=1)):
        yield


def job(data: PreparedDataset, *ends: Checkpoint, workers: int, metrics: Any = METRICS) -> EvaluateJob:
    return EvaluateJob(
        name="target",
        evaluation=Evaluation(dataset="rows", metrics=metrics, resamples=100),
        candidates=WiseFT(alphas=(0.0, 0.5, 1.0)).points(Ends(*ends)),
        data=data,
        split="test",
        seed=0,
        compute=Compute(evaluation_workers=workers, threads=1, max_failures=2),
    )


@given(rows=st.integers(1, 300), of=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=40)
def test_shares_are_whole_batches_of_equal_work_and_together_all_of_them(rows: int, of: int, seed: int) -> None:
    split = object.__new__(PreparedSplit)  # nothing but sizes is asked of it
    split.kind, split.sizes = "labeled", np.random.default_rng(seed).integers(1, 200, rows)
    whole = [batch.tolist() for batch in batches_of(split, EVERYTHING)]
    shares = [[batch.tolist() for batch in batches_of(split, Share(i, of))] for i in range(of)]
    assert sorted(batch for share in shares for batch in share) == sorted(whole)
    assert all(share == sorted(share, key=whole.index) for share in shares)
    work = [[len(batch) * int(split.sizes[batch].max()) for batch in share] for share in shares]
    most = max(work, key=sum)
    assert sum(most) - min(map(sum, work)) <= min(most)  # without the last that it was dealt, it had the least
    parts = [batches_of(split, part) for share in EVERYTHING.parts(2) for part in share.parts(of)]
    assert sorted(batch.tolist() for part in parts for batch in part) == sorted(whole)
    assert sorted(row for batch in whole for row in batch) == list(range(rows))


def test_tables_joined_and_put_in_order_are_the_whole_table(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, tmp_path: Path
) -> None:
    work = Workspace(tmp_path)
    table = read_outcomes(work.root / evaluate(job(data, *ends, workers=1), work).measured[0].outcomes)
    order = np.random.default_rng(0).permutation(len(table))
    parts = [parse_outcomes(table.take(order[i::3]).to_parquet()) for i in range(3)]
    back = joined(parts).take(np.argsort(np.concatenate([order[i::3] for i in range(3)])))
    assert back.to_parquet() == table.to_parquet()


@pytest.mark.parametrize("predicted", [None, ("one", "two", "three", "")])
def test_tables_with_and_without_texts_are_joined(predicted: tuple[str, ...] | None) -> None:
    whole = CompletionOutcomes(
        row_ids=("a", "b", "c", "d"),
        nll=np.arange(4.0),
        targets=np.arange(4),
        target_bytes=np.arange(4) * 3,
        references=("1", "2", "3", "4"),
        predicted=predicted,
        slices={"kind": ("x", "y", "x", "y")},
    )
    parts = [parse_outcomes(whole.take(np.array(rows)).to_parquet()) for rows in ([0, 2], [1, 3])]
    back = joined(parts).take(np.argsort([0, 2, 1, 3]))
    assert back.to_parquet() == whole.to_parquet()


@pytest.mark.slow
@pytest.mark.ray
def test_three_workers_measure_what_one_process_does_bit_for_bit(
    ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, ray_session: None, tmp_path: Path
) -> None:
    alone, together = Workspace(tmp_path / "alone"), Workspace(tmp_path / "together")
    signs: list[Progress] = []
    expected = evaluate(job(data, *ends, workers=1), alone)
    with listen(signs.append):
        found = evaluate(job(data, *ends, workers=3), together)
    assert [cell.metrics for cell in found.measured] == [cell.metrics for cell in expected.measured]
    for ours, theirs in zip(found.measured, expected.measured, strict=True):
        assert (together.root / ours.outcomes).read_bytes() == (alone.root / theirs.outcomes).read_bytes()
    assert [sign.done for sign in signs] == sorted(sign.done for sign in signs)
    assert signs[-1].done == signs[-1].total == 3 * len(ROWS)
    probabilities = [read_outcomes(together.root / cell.outcomes) for cell in found.measured]
    assert isinstance(probabilities[0], LabelOutcomes)
    assert isinstance(probabilities[1], LabelOutcomes)
    assert not np.array_equal(probabilities[0].probabilities, probabilities[1].probabilities)


@pytest.mark.slow
@pytest.mark.ray
def test_two_workers_score_what_one_process_does_bit_for_bit(
    ends: tuple[Checkpoint, Checkpoint], ray_session: None, tmp_path: Path
) -> None:
    """One of the two gets no batch of the validation rows."""
    data = tiny_prepared(tmp_path / "data", {"train": ROWS[:70], "validation": ROWS[:9], "test": ROWS[:5]})
    adapter = tiny_adapter(tmp_path / "adapter", ends[0])
    made: list[PreparedDataset] = []
    for workers in (1, 2):
        work = Workspace(tmp_path / str(workers))
        compute = Compute(evaluation_workers=workers, threads=1)
        facts = {"tokenizer": adapter.tokenizer, "labels": adapter.labels, "precision": "fp32", "compute": compute}
        with listen((signs := list[Progress]()).append):
            made.append(
                score(ScoreJob.model_validate({"name": "teacher", "model": adapter, "data": data, **facts}), work)
            )
        assert (signs[-1].stage, signs[-1].done, signs[-1].total) == ("score teacher", 79, 79)
    assert made[0].digest() == made[1].digest()
    for split in SPLITS:
        assert split_file(made[0].path, split).read_bytes() == split_file(made[1].path, split).read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_more_workers_than_batches_and_a_language_model(ray_session: None, tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start", (), phase="base")
    end = tiny_checkpoint(tmp_path / "end", (), phase="tune", start=start, seed=1)
    rows = tiny_prepared(tmp_path / "data", {"test": tiny_rows(5)}, kind="tokens")
    split = open_split(split_file(rows.path, "test"), ())
    assert len(batches_of(split, EVERYTHING)) < 3
    cells = [
        evaluate(job(rows, start, end, workers=n, metrics=(Perplexity(),)), Workspace(tmp_path / str(n))).measured
        for n in (1, 3)
    ]
    assert [cell.metrics for cell in cells[0]] == [cell.metrics for cell in cells[1]]


@pytest.mark.slow
@pytest.mark.ray
def test_a_worker_that_is_killed_is_asked_again(
    ends: tuple[Checkpoint, Checkpoint],
    data: PreparedDataset,
    ray_session: None,
    tmp_path: Path,
) -> None:
    expected = evaluate(job(data, *ends, workers=1), Workspace(tmp_path / "alone"))
    shot: list[int] = []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while not shot and time.monotonic() < deadline:
            for process in psutil.Process().children(recursive=True):
                try:
                    if "ray::_Worker" in process.cmdline()[0]:
                        os.kill(process.pid, signal.SIGKILL)
                        shot.append(process.pid)
                        return
                except (psutil.Error, ProcessLookupError, IndexError):
                    continue
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    found = evaluate(job(data, *ends, workers=2), Workspace(tmp_path / "killed"))
    thread.join()
    assert shot
    assert [cell.metrics for cell in found.measured] == [cell.metrics for cell in expected.measured]


@pytest.mark.slow
@pytest.mark.ray
def test_what_a_worker_refuses_is_refused_in_its_own_words(
    data: PreparedDataset, ray_session: None, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = tiny_checkpoint(tmp_path / "broken", LABELS)
    weights = broken.path / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.bias"] = torch.full_like(tensors["classifier.bias"], float("nan"))
    save_file(tensors, weights, {"format": "pt"})
    work = Workspace(tmp_path / "work")
    with pytest.raises(ModelError, match=r"tensor .classifier.bias. holds NaN or infinity, 3 of 3 values"):
        evaluate(job(data, broken, broken, workers=2), work)
    assert not list((work.root / "outcomes").glob("*.parquet"))


def test_one_process_never_imports_ray(tmp_path: Path) -> None:
    modules = "ftlib.stages.evaluate, ftlib.stages.score, ftlib.evaluation.row_scores, ftlib.evaluation.predictor"
    code = f"import {modules}, sys; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
