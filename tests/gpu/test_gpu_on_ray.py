"""One Ray worker with a GPU: it trains, is killed with kill -9, and ends with the bits of a run that was not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from ftlib.evaluation.inference import infer_here
from ftlib.evaluation.predictor import PredictionPlan
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.merging.candidates import Candidate
from ftlib.stages.train import train
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.optimizers.adamw import AdamW
from ftlib.workspace import Workspace
from tests.gpu.bench import Bench, losses

pytestmark = [pytest.mark.gpu, pytest.mark.ray]
pytest.importorskip("ray", reason="no Ray on this machine: `make gpu-wheels` brings it")


@pytest.fixture(scope="module")
def ray_session(use_gpu: bool) -> Iterator[None]:
    from ftlib.on_ray.session import session

    with session(Compute(workers=1, threads=1, use_gpu=use_gpu)):
        yield


def _worker() -> psutil.Process | None:
    for process in psutil.Process().children(recursive=True):
        try:
            if any("RayTrainWorker" in part for part in process.cmdline()):
                return process
        except psutil.Error:
            continue
    return None


def test_a_worker_on_the_gpu_is_killed_and_ends_with_the_same_bits(
    use_gpu: bool, ray_session: None, tmp_path: Path
) -> None:
    bench = Bench.make(tmp_path / "rows", "labeled")
    settings = AdamW(learning_rate=1e-3, epochs=20, batch_size=8)
    job = bench.job(
        use_gpu=use_gpu,
        precision="bf16",
        optimizer=settings,
        dropout=0.1,
        compute={"workers": 1, "checkpoint_seconds": 1e-6},
    )
    whole = train(
        job.model_copy(update={"compute": Compute(workers=0, threads=1, use_gpu=use_gpu)}),
        Workspace(tmp_path / "whole"),
    )
    killed = Workspace(tmp_path / "killed")
    folder, shots = killed.folder(job).with_suffix(".work"), []

    def kill() -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            seen = curves.read(folder / curves.FILE)
            if seen and seen[-1]["step"] >= 30 and (victim := _worker()):
                os.kill(victim.pid, signal.SIGKILL)
                shots.append(victim.pid)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    resumed = train(job, killed)
    thread.join()
    assert shots
    assert 0 < int(resumed.facts["resumed_from_step"]) < int(resumed.facts["steps"])
    assert resumed.weights == whole.weights
    assert losses(resumed) == losses(whole)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("offload", [False, True])
def test_shards_on_one_gpu_learn_what_a_whole_model_does(
    use_gpu: bool, ray_session: None, tmp_path: Path, precision: str, offload: bool
) -> None:
    """Whole shards: bf16 layers come and go beside fp32 masters, which may be in the host's memory."""
    if not use_gpu:
        pytest.skip("shards on one worker are a GPU's")
    bench = Bench.make(tmp_path / "rows", "tokens")
    shards = {"workers": 1, "sharding": "fsdp", "cpu_offload": offload, "micro_batch_size": 5}
    sharded = bench.train(tmp_path / "sharded", use_gpu=True, precision=precision, compute=shards)
    whole = bench.train(tmp_path / "whole", use_gpu=True, precision=precision)
    assert losses(sharded)[:10] == pytest.approx(losses(whole)[:10], rel=2e-3 if precision == "fp32" else 3e-2)


def test_an_evaluation_worker_on_the_gpu_writes_this_processs_table(
    use_gpu: bool, ray_session: None, tmp_path: Path
) -> None:
    from ftlib.on_ray.evaluator import infer

    bench, tables = Bench.make(tmp_path / "rows", "labeled"), []
    for name, make in (("ray", infer), ("here", infer_here)):
        plan = PredictionPlan(
            name="d",
            candidates=(Candidate.of(bench.start),),
            files=(str(tmp_path / f"{name}.parquet"),),
            data=bench.data,
            split="test",
            max_new_tokens=0,
            compute=Compute(workers=0, threads=1, use_gpu=use_gpu),
        )
        make(plan)
        tables.append(read_outcomes(Path(plan.files[0])))
    np.testing.assert_array_equal(tables[0].nll, tables[1].nll)
