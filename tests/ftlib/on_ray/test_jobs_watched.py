"""A job on a cluster that is away for a while: it is asked again, and never stopped for it. The clock is the test's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from ftlib.errors import Interrupted, StorageError, TransientError
from ftlib.on_ray import jobs
from ftlib.training.compute import Compute

pytest.importorskip("ray")
AWAY = [requests.ConnectionError("refused"), requests.Timeout("slow"), RuntimeError("status code 503")]


class Cluster:
    """Says one thing at each look, the last for ever; an error is raised."""

    def __init__(self, *says: Any) -> None:
        self.says, self.stopped, self.seconds = [*says], list[str](), 0.0

    def list_jobs(self) -> list[Any]:
        return []

    def submit_job(self, **_: Any) -> str:
        return "job-1"

    def get_job_status(self, job: str) -> Any:
        said = self.says.pop(0) if len(self.says) > 1 else self.says[0]
        if isinstance(said, BaseException):
            raise said
        return jobs.JobStatus(said)

    def get_job_logs(self, job: str) -> str:
        raise requests.ConnectionError("refused")

    def stop_job(self, job: str) -> None:
        self.stopped.append(job)
        raise requests.ConnectionError("refused")

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def start(cluster: Cluster, asked_to_stop: Callable[[], bool] = lambda: False) -> None:
        clock = SimpleNamespace(sleep=cluster.sleep, monotonic=lambda: cluster.seconds, time=lambda: 0.0)
        monkeypatch.setattr(jobs, "time", clock)
        monkeypatch.setattr(jobs, "job_client", lambda address: cluster)
        jobs.run_job("true", "train-1", "train", Compute(workers=1, ray_address="http://head:1"), asked_to_stop)

    return start


@pytest.mark.parametrize("error", AWAY)
def test_a_cluster_that_answers_again_ends_nothing(run: Callable[..., None], error: Exception) -> None:
    cluster = Cluster("RUNNING", *[error] * 20, "RUNNING", *[error] * 20, "SUCCEEDED")
    run(cluster)
    assert not cluster.stopped


@pytest.mark.parametrize("error", AWAY)
def test_one_that_stays_away_is_told_in_a_line_and_its_job_is_left_alone(
    run: Callable[..., None], error: Exception
) -> None:
    cluster = Cluster("RUNNING", error)
    with pytest.raises(TransientError, match="http://head:1 does not say what became of job-1"):
        run(cluster)
    assert not cluster.stopped
    assert cluster.seconds > jobs._AWAY_SECONDS


def test_one_that_was_started_anew_has_lost_the_job_which_is_told_at_once(run: Callable[..., None]) -> None:
    away, anew = AWAY[0], RuntimeError("Request failed with status code 404: Job job-1 does not exist.")
    cluster = Cluster("RUNNING", away, anew)
    with pytest.raises(TransientError, match="http://head:1 was started anew, and its job is lost"):
        run(cluster)
    assert cluster.seconds < 5


def test_a_wish_to_stop_that_cannot_be_read_for_a_while_is_read_again(run: Callable[..., None]) -> None:
    wishes: Iterator[Any] = iter([TransientError("the bucket is away"), TransientError("still"), False])

    def wish() -> bool:
        if isinstance(said := next(wishes), Exception):
            raise said
        return said

    run(Cluster(*["RUNNING"] * 3, "SUCCEEDED"), wish)
    assert next(wishes, None) is None


def test_what_ends_the_run_stops_the_job_and_is_what_is_raised(run: Callable[..., None]) -> None:
    def refused() -> bool:
        raise StorageError("the bucket is no bucket")

    for error, asked in (
        (KeyboardInterrupt, lambda: False),
        (StorageError, refused),
        (Interrupted, lambda: True),
    ):
        cluster = Cluster(KeyboardInterrupt() if error is KeyboardInterrupt else "RUNNING")
        with pytest.raises(error):
            run(cluster, asked)
        assert cluster.stopped == ["job-1"]


def test_a_failed_job_is_told_without_its_log_where_nobody_has_it(run: Callable[..., None]) -> None:
    with pytest.raises(TransientError, match="ended as FAILED: no log"):
        run(Cluster("RUNNING", "FAILED"))
