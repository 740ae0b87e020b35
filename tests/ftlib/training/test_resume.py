"""Killed and resumed: kill -9 of a process or a worker, then bit-identical weights and the same loss series."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import IntegrityError, TrainingError, TransientError
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.progress import Progress, listen
from ftlib.stages.base import BaseJob, base
from ftlib.stages.quantize import QuantizeJob, quantize
from ftlib.stages.train import TrainJob, train
from ftlib.testing import LABELS, tiny_classifier, tiny_prepared, tiny_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.objectives.classification import Classification
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import EarlyStopping, Phase
from ftlib.training.tuning import tunings
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at


def make_job(root: Path, ema_decay: float | None = None, hidden: int = 32, **compute: object) -> TrainJob:
    rows = tiny_rows(120)
    data = tiny_prepared(root / "data", {"train": rows[:96], "validation": rows[96:]})
    model = find_model(ModelRef(path=str(tiny_classifier(root / "tiny", hidden=hidden))))
    start = base(BaseJob(model=model, kind="labeled", labels=LABELS, seed=1), Workspace(root))
    return build_job(start, data, ema_decay, **compute)


def build_job(start: Checkpoint, data: PreparedDataset, ema_decay: float | None = None, **compute: object) -> TrainJob:
    settings = AdamW(learning_rate=1e-3, epochs=5, batch_size=16, schedule="plateau", plateau_patience=0)
    phase = Phase(
        name="tune",
        dataset="d",
        objective=Classification(),
        tuning=Full(),
        optimizer=settings,
        early_stopping=EarlyStopping(patience=50),
        ema_decay=ema_decay,
    )
    options = {"workers": 0, "threads": 1, "checkpoint_seconds": 1e-6, **compute}
    return TrainJob(
        start=start, data=data, phase=phase, precision="fp32", seed=3, compute=Compute.model_validate(options)
    )


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(int(r["step"]), r.get("loss", r.get("validation_loss", 0.0))) for r in curves.read(folder / curves.FILE)]


def wait_for_step(work: Path, step: int, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        records = curves.read(work / curves.FILE)
        if records and records[-1]["step"] >= step:
            return
        time.sleep(0.02)
    raise AssertionError(f"no step {step} in {work} after {seconds} s")


SCRIPT = """
import sys
from pathlib import Path
from ftlib.stages.train import TrainJob, train
from ftlib.workspace import Workspace
job = TrainJob.model_validate_json(Path(sys.argv[1]).read_text())
train(job, Workspace(sys.argv[2]))
"""


@pytest.mark.parametrize("ema_decay", [None, pytest.param(0.9, marks=pytest.mark.slow)])
def test_kill_9_and_resume_gives_bit_identical_weights(tmp_path: Path, ema_decay: float | None) -> None:
    job = make_job(tmp_path, ema_decay)
    whole = train(job, Workspace(tmp_path / "whole"))
    (tmp_path / "job.json").write_text(job.model_dump_json())
    killed = Workspace(tmp_path / "killed")
    work = killed.folder(job).with_suffix(".work")
    for step in (7, 19):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "job.json"), str(killed.root)])
        wait_for_step(work, step)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert killed.find(job, Checkpoint) is None
        assert list((work / "checkpoints").glob("step-*/manifest.json"))
    resumed = train(job, killed)
    assert resumed.weights == whole.weights
    assert losses(resumed.path) == losses(whole.path)
    assert resumed.facts["samples_per_second"] != whole.facts["samples_per_second"]
    assert not (resumed.path / "checkpoints").exists()


HANGING = """
import time
from ftlib.training.checkpoints import parts as checkpoint_parts
flush = checkpoint_parts.flush
def hang(stream):
    if "step-" in stream.name and int(stream.name.partition("step-")[2][:8]) > 6:
        time.sleep(600)
    flush(stream)
checkpoint_parts.flush = hang
"""


@pytest.mark.slow
def test_killed_while_a_checkpoint_is_written_it_goes_on_from_the_one_before(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    (tmp_path / "job.json").write_text(job.model_dump_json())
    killed = Workspace(tmp_path / "killed")
    work = killed.folder(job).with_suffix(".work")
    process = subprocess.Popen([sys.executable, "-c", HANGING + SCRIPT, str(tmp_path / "job.json"), str(killed.root)])
    wait_for_step(work, 17)  # training goes on beside the write, until best weights wait for the best before them
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = sorted((work / "checkpoints").glob("step-*"))
    whole = [folder for folder in steps if (folder / "manifest.json").exists()]
    assert steps[-1] not in whole
    assert list(steps[-1].glob(".*.part"))
    resumed = train(job, killed)
    assert resumed.facts["resumed_from_step"] == int(whole[-1].name[5:]) <= 6
    expected = train(job, Workspace(tmp_path / "whole"))
    assert resumed.weights == expected.weights
    assert losses(resumed.path) == losses(expected.path)


def half_done(tmp_path: Path, job: TrainJob | None = None, step: int = 20) -> tuple[TrainJob, Workspace, Path]:
    """A run stopped in the middle, with a checkpoint of its last step."""
    job = job or make_job(tmp_path)
    workspace = Workspace(tmp_path / "half")

    with stopped_at(step):
        train(job, workspace)
    return job, workspace, workspace.folder(job).with_suffix(".work")


def test_a_training_that_is_asked_to_stop_loses_no_step(tmp_path: Path) -> None:
    job = make_job(tmp_path, checkpoint_seconds=3600.0)
    job, workspace, work = half_done(tmp_path, job)
    assert [folder.name for folder in sorted((work / "checkpoints").glob("step-*"))] == ["step-00000020"]
    resumed, whole = train(job, workspace), train(job, Workspace(tmp_path / "whole"))
    assert resumed.facts["resumed_from_step"] == 20
    assert resumed.weights == whole.weights
    assert losses(resumed.path) == losses(whole.path)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in ("adamw_8bit", "galore", "apollo", "muon", "adafactor", "sgd")
    ],
)
def test_every_optimiser_goes_on_from_a_checkpoint(tmp_path: Path, kind: str) -> None:
    """GaLore's projections and the bytes of 8-bit moments lie in it, and are what they were."""
    job = make_job(tmp_path)
    fields: dict[str, object] = {"kind": kind, "learning_rate": 1e-3, "epochs": 5, "batch_size": 16}
    fields |= {"rank": 4, "refresh": 7} if kind in ("galore", "apollo") else {}
    phase = Phase.model_validate({**job.phase.model_dump(), "early_stopping": None, "optimizer": fields})
    job, workspace, _ = half_done(tmp_path, job.model_copy(update={"phase": phase}))
    resumed, whole = train(job, workspace), train(job, Workspace(tmp_path / "whole"))
    assert resumed.facts["resumed_from_step"] == 20
    assert resumed.weights == whole.weights


TUNINGS: dict[str, dict[str, object]] = {
    "frozen_layers": {"layers": 1},
    "houlsby": {"width": 4},
    "lora": {"rank": 2},
    "lora, pissa": {"rank": 2, "init": "pissa"},
    "lora, rows": {"rank": 2, "token_rows": [5, 9]},
    "lora, kept": {"rank": 2, "keep": "adapter"},
    "lora, dora": {"rank": 2, "use_dora": True},
    "qlora": {"rank": 2},
    "p_tuning": {"virtual_tokens": 3},
    "prefix_tuning": {"virtual_tokens": 3},
    "prompt_tuning": {"virtual_tokens": 3},
}
"""What tunings are given here; of one that is not named, nothing."""
NOT_HERE = {
    "linear_probe": "takes no steps",
    "zero_shot": "takes no steps",
    "full": "is every other test of this file",
    "gradual_unfreezing": "test_thawing.py",
}
SWEPT = [*dict.fromkeys([*(one for one in tunings() if one not in NOT_HERE), *TUNINGS])]


def tuned(tmp_path: Path, name: str, **fields: object) -> TrainJob:
    """Return a job of a tuning as it is given here, over a model with whole blocks of 64 weights, for qlora."""
    job = make_job(tmp_path, hidden=64)
    optimizer: dict[str, object] = {"kind": "adamw", "learning_rate": 1e-2, "epochs": 2, "batch_size": 16}
    tuning = {"kind": name.partition(",")[0], **TUNINGS.get(name, {})}
    phase = Phase.model_validate(
        {**job.phase.model_dump(), "early_stopping": None, "optimizer": optimizer, "tuning": tuning, **fields}
    )
    start = job.start
    if quantization := phase.tuning.quantization:
        start = quantize(QuantizeJob(start=start, kind="labeled", quantization=quantization), Workspace(tmp_path))
    return job.model_copy(update={"phase": phase, "start": start})


@pytest.mark.parametrize(
    "name",
    [pytest.param(one, marks=[] if one in ("lora, rows", "houlsby") else pytest.mark.slow) for one in SWEPT],
)
def test_every_tuning_goes_on_from_a_checkpoint(tmp_path: Path, name: str) -> None:
    job, workspace, _ = half_done(tmp_path, tuned(tmp_path, name), step=5)
    resumed, whole = train(job, workspace), train(job, Workspace(tmp_path / "whole"))
    assert resumed.facts["resumed_from_step"] == 5
    assert resumed.weights == whole.weights
    assert losses(resumed.path) == losses(whole.path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SWEPT, "full", "gradual_unfreezing"])
def test_no_tuning_minds_how_a_batch_is_split(tmp_path: Path, name: str) -> None:
    job = tuned(tmp_path, name, dropout=0.0)
    split = job.model_copy(update={"compute": job.compute.model_copy(update={"micro_batch_size": 5})})
    ends = [train(one, Workspace(tmp_path / str(i))) for i, one in enumerate((job, split))]
    whole, pieces = ([loss for _, loss in losses(end.path)] for end in ends)
    assert len(whole) == 14  # twelve steps, and a validation after each epoch
    assert pieces == pytest.approx(whole, rel=1e-4)
    assert pieces != whole  # it was split


def test_a_damaged_checkpoint_is_never_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job, workspace, work = half_done(tmp_path)
    newest = max((work / "checkpoints").iterdir())
    shard = newest / "rank-00000.safetensors"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    resumed = train(job, workspace)
    assert f"{newest.name} is damaged ({shard.name})" in caplog.text
    assert resumed.weights == train(job, Workspace(tmp_path / "whole")).weights


def test_a_checkpoint_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    job, workspace, work = half_done(tmp_path)
    for folder in (work / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
        (folder / "state.json").write_bytes(b"not JSON")  # would raise if it were opened
    assert train(job, workspace).weights == train(job, Workspace(tmp_path / "whole")).weights


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    job, workspace, work = half_done(tmp_path)
    manifest = max((work / "checkpoints").iterdir()) / "manifest.json"
    manifest.write_text(manifest.read_text().replace(job.fingerprint, "0" * 16))
    with pytest.raises(IntegrityError, match=f"belongs to run {'0' * 16}, not to {job.fingerprint}"):
        train(job, workspace)


@pytest.fixture(scope="module")
def ray_session():
    from ftlib.on_ray.session import session

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with session(Compute(workers=2, threads=1)):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
        yield


TASK: ContextVar[str] = ContextVar("TASK", default="none")


class Listening(NamedTuple):
    """A port that a training holds open, and what it says to one without the token."""

    ip: str
    answer: str


def listening() -> list[Listening]:
    found = []
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            # Other tests leave a Prefect or an S3 server beside Ray's processes.
            if process.pid != os.getpid() and not any("ray/" in part or "ray::" in part for part in process.cmdline()):
                continue
            found.extend(at.laddr for at in process.net_connections("inet") if at.status == psutil.CONN_LISTEN)
    with ThreadPoolExecutor(len(found)) as pool:
        answers = pool.map(without_token, [at.port for at in found])
        return [Listening(at.ip, answer) for at, answer in zip(found, answers, strict=True)]


def without_token(port: int) -> str:
    """Ask as HTTP and as gRPC; empty for a port that speaks neither."""
    import grpc

    with contextlib.suppress(OSError, http.client.HTTPException):
        asking = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        asking.request("GET", "/metrics")
        answer = asking.getresponse()
        text = answer.read().decode(errors="replace")
        return "metrics" if answer.status == 200 and "# HELP" in text else str(answer.status)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for method in ("NodeInfoGcsService/CheckAlive", "NodeManagerService/GetNodeStats", "CoreWorkerService/Exit"):
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=5)
            except grpc.RpcError as error:
                if (code := error.code()).name != "UNIMPLEMENTED":
                    return "" if code.name in ("UNAVAILABLE", "DEADLINE_EXCEEDED") else code.name
            else:
                return "OK"
    return ""


def ray_workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("RayTrainWorker" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("ema_decay", [None, pytest.param(0.9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sharding", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_kill_9_of_a_ray_worker_resumes_bit_identically(
    tmp_path: Path, ray_session: None, sharding: str, ema_decay: float | None
) -> None:
    job = make_job(tmp_path, ema_decay, workers=2, sharding=sharding)
    whole = train(job, Workspace(tmp_path / "whole"))
    alone = train(job.model_copy(update={"compute": Compute(workers=0, threads=1)}), Workspace(tmp_path / "alone"))
    killed = Workspace(tmp_path / "killed")
    work = killed.folder(job).with_suffix(".work")
    shots: list[int] = []

    heard: list[Listening] = []

    def kill() -> None:
        wait_for_step(work, 15)
        victim = ray_workers()[-1]
        victim.suspend()  # or the training may end while its ports are asked
        heard.extend(listening())
        shots.append(victim.pid)
        victim.kill()

    signs: list[Progress] = []
    tasks: set[str] = set()
    thread = threading.Thread(target=kill)
    thread.start()
    token = TASK.set("train tune")
    with listen(signs.append), listen(lambda _: tasks.add(TASK.get())):
        resumed = train(job, killed)
    TASK.reset(token)
    thread.join()
    assert shots
    assert tasks == {"train tune"}  # a run page files signs of life under the task in whose context they are emitted
    assert len(heard) >= 10
    assert [at for at in heard if not ip_address(at.ip.removeprefix("::ffff:")).is_loopback] == []
    assert {at.answer for at in heard if at.answer} <= {"UNAUTHENTICATED", "401", "metrics"}
    assert {"UNAUTHENTICATED", "401"} <= {at.answer for at in heard}
    restarts = [sign.done for sign in signs if sign.unit == curves.RESTART]
    assert restarts == [resumed.facts["resumed_from_step"]]  # said once, when it happened, and kept
    assert 0 < restarts[0] < resumed.facts["steps"]
    assert int(resumed.facts["world_size"]) == 2
    assert resumed.weights == whole.weights
    assert losses(resumed.path) == losses(whole.path)
    assert alone.facts["world_size"] == 1


@pytest.mark.parametrize(("thread", "printed"), [("ray_listen_error_messages", ""), ("any other", "words\n")])
def test_what_ray_s_own_threads_print_goes_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, thread: str, printed: str
) -> None:
    from ftlib.on_ray.session import without_ray

    with without_ray():
        speaking = threading.Thread(target=print, args=("words",), name=thread)
        speaking.start()
        speaking.join()
    assert capsys.readouterr().out == printed
    assert ("words" in caplog.text) == (not printed)


@pytest.mark.ray
@pytest.mark.slow  # test_ranks.py and test_token_log_probs_ranks.py hold it without Ray
@pytest.mark.parametrize("ema_decay", [None, 0.8])
def test_workers_do_not_change_the_loss(tmp_path: Path, ray_session: None, ema_decay: float | None) -> None:
    job = make_job(tmp_path, ema_decay)
    settings = AdamW(learning_rate=1e-3, epochs=2, batch_size=15)  # 15 rows do not divide by two workers
    phase = job.phase.model_copy(update={"dropout": 0.0, "optimizer": settings, "early_stopping": None})
    curve = {}
    for workers, sharding in ((0, "ddp"), (1, "ddp"), (2, "ddp"), (2, "fsdp")):
        compute = Compute(workers=workers, threads=1, sharding=sharding, micro_batch_size=4)
        asked = job.model_copy(update={"phase": phase, "compute": compute})
        assert asked.fingerprint == job.model_copy(update={"phase": phase}).fingerprint
        curve[workers, sharding] = losses(train(asked, Workspace(tmp_path / f"{workers}{sharding}")).path)
    assert curve[1, "ddp"] == curve[0, "ddp"]
    for other in ((2, "ddp"), (2, "fsdp")):
        assert [v for _, v in curve[other]] == pytest.approx([v for _, v in curve[0, "ddp"]], rel=1e-4)


@pytest.mark.ray
@pytest.mark.slow
def test_lora_trains_under_sharding(tmp_path: Path, ray_session: None) -> None:
    job = make_job(tmp_path, workers=2, sharding="fsdp")
    settings = AdamW(learning_rate=1e-2, epochs=2, batch_size=16)
    phase = job.phase.model_copy(update={"tuning": LoRA(rank=2), "dropout": 0.0, "optimizer": settings})
    alone = job.model_copy(update={"phase": phase, "compute": Compute(workers=0, threads=1)})
    spread = train(job.model_copy(update={"phase": phase}), Workspace(tmp_path / "two"))
    expected = losses(train(alone, Workspace(tmp_path / "one")).path)
    assert [v for _, v in losses(spread.path)] == pytest.approx([v for _, v in expected], rel=1e-4)


@pytest.mark.slow
@pytest.mark.ray
def test_a_broken_invariant_crosses_ray_as_itself(tmp_path: Path, ray_session: None) -> None:
    job = make_job(tmp_path, workers=2)
    settings = AdamW(learning_rate=1e30, epochs=1, batch_size=16, warmup=0, clip_norm=None)
    phase = job.phase.model_copy(update={"optimizer": settings})
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step"):
        train(job.model_copy(update={"phase": phase}), Workspace(tmp_path / "work"))


@pytest.mark.ray
@pytest.mark.slow
def test_workers_that_die_too_often_are_a_transient_error(tmp_path: Path, ray_session: None) -> None:
    job = make_job(tmp_path, workers=2, max_failures=0)
    workspace = Workspace(tmp_path / "work")
    work = workspace.folder(job).with_suffix(".work")

    def kill() -> None:
        wait_for_step(work, 10, 300)
        os.kill(ray_workers()[-1].pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(TransientError, match="workers were lost more than 0 times") as raised:
        train(job, workspace)
    thread.join()
    # Processes are listed in no order of ranks; the step may be on its way into a checkpoint.
    assert len(re.findall(r"; rank [01] was last heard of \d+ s ago, in .*?step \d+ of 30", str(raised.value))) == 1
    whole = train(job, Workspace(tmp_path / "whole"))
    assert train(job, workspace).weights == whole.weights
