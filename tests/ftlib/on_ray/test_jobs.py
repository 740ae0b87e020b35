"""Training as a job of a Ray cluster: a real head on loopback, submitted to, watched and stopped by its run's name."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.metrics import LogLoss
from ftlib.merging.candidates import Candidate
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.progress import Progress, listen
from ftlib.stages.base import BaseJob, base
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_checkpoint, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.objectives.classification import Classification
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.workspace import Workspace
from infra.ray_head import ray_head

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The dashboard's address of a head with two CPUs, gone with the module."""
    with ray_head() as address:
        yield address


def make_job(root: Path, epochs: float, **compute: object) -> TrainJob:
    rows = tiny_rows(120)
    data = tiny_prepared(root / "data", {"train": rows[:96], "validation": rows[96:]})
    model = find_model(ModelRef(path=str(tiny_classifier(root / "tiny"))))
    start = base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(root))
    settings = AdamW(learning_rate=1e-3, epochs=epochs, batch_size=16)
    phase = Phase(name="tune", dataset="d", objective=Classification(), tuning=Full(), optimizer=settings, dropout=0.0)
    options = {"threads": 1, "checkpoint_seconds": 0.2, **compute}
    return TrainJob(
        start=start, data=data, phase=phase, precision="fp32", seed=3, compute=Compute.model_validate(options)
    )


def test_a_job_trains_what_this_process_would(tmp_path: Path, cluster: str) -> None:
    alone = train(make_job(tmp_path, 2, workers=0), Workspace(tmp_path / "alone"))
    job = make_job(tmp_path, 2, workers=2, ray_address=cluster)
    spread = train(job, Workspace(tmp_path / "spread"))
    assert spread.facts["world_size"] == 2
    expected, actual = ([r["loss"] for r in curves.read(c.path / curves.FILE) if "loss" in r] for c in (alone, spread))
    assert actual == pytest.approx(expected, rel=1e-4)


def test_a_job_measures_what_this_process_would(tmp_path: Path, cluster: str) -> None:
    start = tiny_checkpoint(tmp_path / "start", LABELS)
    data = tiny_prepared(tmp_path / "data", {"test": tiny_rows(80)})
    cells = {
        name: evaluate(
            EvaluateJob(
                name="target",
                evaluation=Evaluation(dataset="rows", metrics=(LogLoss(),), resamples=100),
                candidates=(Candidate.of(start),),
                data=data,
                split="test",
                seed=0,
                compute=compute,
            ),
            Workspace(tmp_path / name),
        ).measured
        for name, compute in {
            "alone": Compute(threads=1),
            "spread": Compute(threads=1, evaluation_workers=2, ray_address=cluster),
        }.items()
    }
    assert [cell.metrics for cell in cells["spread"]] == [cell.metrics for cell in cells["alone"]]
    assert not list((tmp_path / "spread" / "outcomes").glob("evaluate-*"))


def test_stopping_the_run_stops_the_job_and_the_next_one_resumes(tmp_path: Path, cluster: str) -> None:
    from ray.job_submission import JobStatus, JobSubmissionClient

    job = make_job(tmp_path, 400, workers=1, ray_address=cluster)
    started = threading.Event()

    def seen(progress: Progress) -> None:
        if progress.done > 3 and not started.is_set():
            started.set()
            os.kill(os.getpid(), signal.SIGINT)

    with listen(seen), pytest.raises(KeyboardInterrupt):
        train(job, Workspace(tmp_path / "work"))
    client = JobSubmissionClient(cluster)
    mine = [j for j in client.list_jobs() if (j.metadata or {}).get("reglage_run") == f"train-{job.fingerprint}"]
    assert len(mine) == 1
    deadline = time.monotonic() + 30
    while not client.get_job_status(str(mine[0].submission_id)).is_terminal():
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert client.get_job_status(str(mine[0].submission_id)) == JobStatus.STOPPED
