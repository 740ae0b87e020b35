"""What inference and statistics share of Ray: errors in our words, and a plan as a job; without a Ray."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    TaskUnschedulableError,
    WorkerCrashedError,
)

from ftlib.errors import ModelError, TransientError
from ftlib.on_ray import answers, jobs
from ftlib.on_ray.answers import answer_of
from ftlib.on_ray.jobs import run_plan
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (RayTaskError("f", "traceback", ModelError("no such model")), "ModelError: no such model"),
        (RayTaskError("f", "traceback", ValueError("odd")), "RayTaskError"),
        (RayActorError(), "TransientError: batch_norm: a worker was lost more than 3 times"),
        (WorkerCrashedError(), "TransientError: batch_norm: a worker was lost more than 3 times"),
        (OutOfMemoryError("the node ran low"), "TransientError: batch_norm: Ray ended the work (the node ran low)"),
        (NodeDiedError("gone"), "TransientError: batch_norm: Ray ended the work (gone)"),
        (LocalRayletDiedError(), "TransientError: batch_norm: Ray ended the work ("),
        (ObjectLostError("00", "", ""), "TransientError: batch_norm: Ray ended the work ("),
        (OutOfDiskError("full"), "TransientError: batch_norm: Ray ended the work ("),
        (TaskUnschedulableError("no node"), "TransientError: batch_norm: Ray ended the work ("),
    ],
)
def test_a_workers_own_error_is_raised_and_a_lost_worker_may_be_asked_again(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, says: str
) -> None:
    def get(reference: str) -> str:
        if reference == "fails":
            raise raised
        return f"answer of {reference}"

    monkeypatch.setattr(answers.ray, "get", get)
    assert answer_of("x", "batch_norm", Compute()) == "answer of x"
    with pytest.raises((ModelError, RayTaskError, TransientError)) as error:
        answer_of("fails", "batch_norm", Compute(max_failures=3))
    assert f"{type(error.value).__name__}: {error.value}".startswith(says)


def test_a_plans_file_is_there_while_the_job_runs_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, calls = tmp_path / "a plan.json", list[tuple[str, str, str, str]]()

    def run_job(entrypoint: str, name: str, what: str, compute: Compute, kms_key: str | None = None) -> None:
        calls.append((entrypoint, name, what, file.read_text()))
        if what == "fails":
            raise TransientError("lost")

    monkeypatch.setattr(jobs, "run_job", run_job)
    run_plan("ftlib.on_ray.statistics", "{}", file, "batch_norm", Compute(), Workspace(tmp_path))
    with pytest.raises(TransientError):
        run_plan("ftlib.on_ray.statistics", "{}", file, "fails", Compute(), Workspace(tmp_path))
    assert calls[0] == (f"python -P -m ftlib.on_ray.statistics '{file}'", "a plan", "batch_norm", "{}")
    assert not file.exists()


def test_a_plan_crosses_a_bucket_and_what_its_job_makes_comes_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bucket: Any, s3_endpoint: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "here"))
    work = Workspace(f"s3://{bucket.name}/work")
    made = [work.root / "outcomes" / name for name in ("a.parquet", "b.parquet")]
    for path in made:
        path.parent.mkdir(parents=True, exist_ok=True)
    plan = json.dumps({"files": [str(path) for path in made], "says": f'a "{made[0]}" in words'})

    def run_job(entrypoint: str, name: str, what: str, compute: Compute, kms_key: str | None = None) -> None:
        with monkeypatch.context() as there:
            there.setenv("REGLAGE_CACHE", str(tmp_path / "there"))
            text, theirs = jobs.read_spec(shlex.split(entrypoint)[-1])
            assert theirs is not None
            files = [Path(file) for file in json.loads(text)["files"]]
            assert all(file.is_relative_to(tmp_path / "there") for file in files)
            files[0].parent.mkdir(parents=True, exist_ok=True)
            for file in files[:1] if what == "fails" else files:
                if not theirs.shared(file.relative_to(theirs.root)).exists():
                    file.write_bytes(f"{file.name} by {what}".encode())
            jobs.share_made(theirs, files)
        if what == "fails":
            raise TransientError("lost")

    monkeypatch.setattr(jobs, "run_job", run_job)
    with pytest.raises(TransientError):
        run_plan("ftlib.on_ray.evaluator", plan, tmp_path / "asked.json", "fails", Compute(), work, made)
    run_plan("ftlib.on_ray.evaluator", plan, tmp_path / "asked.json", "works", Compute(), work, made)
    assert [path.read_text() for path in made] == ["a.parquet by fails", "b.parquet by works"]
    assert not [one.key for one in bucket.objects.filter(Prefix="work/jobs/")]
