"""A driver on Ray whose claim was taken over while it slept: its workers end, and the other's record counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]

ON_RAY = """
import sys, time
from pathlib import Path
from ftlib.progress import NOTE, listen
from ftlib.on_ray.session import session
from ftlib.stages.train import train
from ftlib.storage import claims
from ftlib.workspace import Workspace
from tests.ftlib.training.test_resume import make_job

claims.SECONDS_BETWEEN_BEATS, claims.PATIENCE = 0.5, 5.0
claims.FIRST_LOOK, claims.SECONDS_BETWEEN_LOOKS = 0.05, 0.2

def tell(sign):
    if sign.unit == "steps":
        print(sign.done, flush=True)
    elif sign.unit == NOTE:
        print(sign.text, flush=True)

job = make_job(Path(sys.argv[2]), workers=2, checkpoint_seconds=0.5)
optimizer = job.phase.optimizer.model_copy(update={"epochs": 150})
job = job.model_copy(update={"phase": job.phase.model_copy(update={"optimizer": optimizer, "early_stopping": None})})
with session(job.compute):
    with listen(tell):
        made = train(job, Workspace(sys.argv[1]))
    print(made.weights, made.facts["resumed_from_step"], flush=True)
"""


@pytest.mark.parametrize("ends", [False, True])
def test_workers_on_ray_end_when_their_drivers_claim_was_taken_over(
    bucket: Any, s3_endpoint: str, tmp_path: Path, request: pytest.FixtureRequest, ends: bool
) -> None:
    """The driver sleeps and its workers go on, until another machine has taken over, or is done."""

    def machine(name: str) -> subprocess.Popen[str]:
        own = {"REGLAGE_CACHE": str(tmp_path / f"{name}-node"), "AWS_ENDPOINT_URL": s3_endpoint}
        own["RAY_worker_niceness"] = "0"  # by default 15, which on a busy machine is next to never
        argv = [sys.executable, "-c", ON_RAY, f"s3://{bucket.name}/work", str(tmp_path / name)]
        log = (tmp_path / f"{name}.err").open("w")
        process = subprocess.Popen(argv, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=log, text=True)
        request.addfinalizer(process.kill)  # also one that sleeps
        return process

    def until(process: subprocess.Popen[str], step: int) -> list[str]:
        assert process.stdout
        said = list[str]()
        for line in process.stdout:
            said.append(line.strip())
            if line.strip().isdigit() and int(line) >= step:
                return said
        raise AssertionError(f"it ended: {said}")

    def rest(process: subprocess.Popen[str], name: str) -> list[str]:
        lines = process.communicate(timeout=1500)[0].splitlines()
        assert process.returncode == 0, (tmp_path / f"{name}.err").read_text()[-3000:]
        return lines

    one = machine("one")
    until(one, 40)
    workers = [child for child in psutil.Process(one.pid).children(recursive=True) if "RayTrain" in child.name()]
    one.send_signal(signal.SIGSTOP)
    other = machine("other")
    until(other, 60)
    of_other = rest(other, "other") if ends else []
    one.send_signal(signal.SIGCONT)
    of_one = rest(one, "one")
    of_other = of_other or rest(other, "other")
    assert of_one[-1] == of_other[-1]  # the record is the other's
    assert int(of_one[-1].split()[1]) > 0  # which went on from the first one's checkpoint
    assert "900" not in of_one
    waited = [line for line in of_one if "waiting for it" in line]
    assert ends or (len(waited) == 1 and f":{other.pid} " in waited[0]), of_one
    assert workers
    assert not any(worker.is_running() for worker in workers)
    left = [one.key for one in bucket.objects.all()]
    assert not [key for key in left if key.startswith(("work/claims/", "work/attempts/"))]
    assert len([key for key in left if key.startswith("work/stages/train/")]) == 1
