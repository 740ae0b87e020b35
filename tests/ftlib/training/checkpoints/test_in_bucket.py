"""Ranks and machines that share nothing but a bucket: checkpoints, curves, the result, and what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from uuid import uuid4

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file

from ftlib.errors import IntegrityError, Interrupted, StorageError
from ftlib.progress import Progress, listen
from ftlib.stages.fisher import FisherJob, fisher
from ftlib.stages.train import train
from ftlib.storage import S3Store
from ftlib.training import curves, worker
from ftlib.training.checkpoints import in_bucket as bucket_checkpoints
from ftlib.training.checkpoints import manifests as bucket_manifests
from ftlib.training.checkpoints.in_bucket import BucketCheckpoints, step_saved
from ftlib.training.checkpoints.resumable import State
from ftlib.training.checkpoints.run_place import RunPlace, attempt_of
from ftlib.training.compute import Compute
from ftlib.training.curves import Curves
from ftlib.training.group import Group, unwrap
from ftlib.training.loops.heartbeat import Heartbeat, signs
from ftlib.training.phase import Phase
from ftlib.training.plan import Part, Plan
from ftlib.workspace import Workspace
from tests.ftlib.training.checkpoints.test_resumable import ALONE
from tests.ftlib.training.checkpoints.test_resumable import Run as FolderRun
from tests.ftlib.training.stopping import stopped_at
from tests.ftlib.training.test_resume import losses, make_job

KEYS = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")


@pytest.fixture
def work(bucket: Any, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "node"))
    monkeypatch.setattr(bucket_checkpoints, "_LOOK_SECONDS", 0.02)
    return f"s3://{bucket.name}/work"


def keys(bucket: Any, below: str = "work/attempts/") -> list[str]:
    return [one.key.removeprefix(below) for one in bucket.objects.filter(Prefix=below)]


class Run(FolderRun):
    def __init__(self, group: Group, sharding: str, run: str) -> None:
        self.place = RunPlace(run)
        super().__init__(group, sharding, Path("unused"))
        self.checkpoints = BucketCheckpoints(self.place, "f" * 16, group)


def trained(run: Run, state: State, steps: range) -> dict[str, torch.Tensor]:
    for n in steps:
        run.step(n)
    run.checkpoints.save(*run.learnt, state)
    bits = run.bits()
    run.checkpoints.settle(must=True)
    return bits


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.fixture
def place(work: str) -> str:
    return f"{work}/attempts/{'f' * 16}"


def again(place: str) -> tuple[Run, State | None]:
    run = Run(ALONE, "ddp", place)
    return run, run.checkpoints.restore(*run.learnt)


def test_two_are_kept_and_another_node_reads_the_newest(
    place: str, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, state = again(place)
    assert state is None
    wanted = [trained(run, State(step=n), range(n - 1, n)) for n in (1, 2, 3)]
    run.checkpoints.close()
    steps = {key.split("/")[2].rpartition("-")[0] for key in keys(bucket) if "/step-" in key}
    assert steps == {"step-00000002", "step-00000003"}
    assert step_saved(RunPlace(place)) == 3
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "another"))
    found, state = again(place)
    assert state == State(step=3)
    assert same(found.bits(), wanted[-1])
    assert not list((tmp_path / "another").rglob("*.safetensors"))  # ranges that were read are not kept


@pytest.mark.parametrize(
    "harm",
    ["flipped", *(pytest.param(one, marks=pytest.mark.slow) for one in ("gone", "cut", "manifest", "description"))],
)
def test_what_is_damaged_is_never_loaded(
    place: str, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    run, _ = again(place)
    wanted = [trained(run, State(step=n), range(n - 1, n)) for n in (1, 2)]
    run.checkpoints.close()
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "another"))
    end = {"manifest": "manifests/00000002.json", "description": "rank-00000.json"}.get(harm, ".safetensors")
    (one,) = (o for o in bucket.objects.all() if o.key.endswith(end) and ("step-00000002" in o.key or "manif" in end))
    data = one.get()["Body"].read()
    if harm == "gone":
        one.delete()
    else:
        middle = len(data) // 2
        one.put(Body=data[:-9] if harm == "cut" else data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    found, state = again(place)
    assert state == State(step=1)
    assert same(found.bits(), wanted[0])
    trained(found, State(step=2), range(1, 2))
    found.checkpoints.close()
    assert again(place)[1] == State(step=2)


def test_a_part_on_this_disk_is_not_read_from_the_bucket(
    place: str, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = again(place)
    wanted = trained(run, State(step=1), range(1))
    run.checkpoints.close()
    monkeypatch.setattr(S3Store, "read_range", lambda *_: pytest.fail("it is here"))
    found, _ = again(place)
    assert same(found.bits(), wanted)
    (part,) = (tmp_path / "node").rglob("rank-00000.safetensors")
    part.write_bytes(part.read_bytes()[:-1] + b"\1")
    monkeypatch.undo()


def test_only_the_ranges_that_are_needed_are_read(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bucket_checkpoints, bucket_manifests):
        monkeypatch.setattr(module, "CHUNK_BYTES", 64)
    run, _ = again(place)
    wanted = trained(run, State(step=1), range(1))
    run.checkpoints.close()
    monkeypatch.setenv("REGLAGE_CACHE", str(tmp_path / "another"))
    read: list[int] = []
    one_range = S3Store.read_range

    def counted(self: S3Store, path: str, start: int, count: int) -> bytes:
        read.append(count)
        return one_range(self, path, start, count)

    monkeypatch.setattr(S3Store, "read_range", counted)
    found, _ = again(place)
    assert same(found.bits(), wanted)
    assert max(read) <= 8 * 64
    (size,) = {key["bytes"] for key in _descriptions(place)}
    assert sum(read) < size  # not its header


def _descriptions(place: str) -> list[dict[str, Any]]:
    there = RunPlace(place)
    assert there.store is not None
    folders = [name for name in there.store.list(there.path("checkpoints")) if name.startswith("step-")]
    return [json.loads(there.read(f"checkpoints/{name}rank-00000.json") or b"") for name in folders]


def refusing(monkeypatch: pytest.MonkeyPatch, error: Exception, wanted: str = ".safetensors") -> list[bool]:
    """Let uploads fail while the list says so."""
    refuses, put = [True], S3Store.put_file

    def put_file(self: S3Store, source: Path, path: str, sha256: str) -> None:
        if refuses[0] and path.endswith(wanted):
            raise error
        put(self, source, path, sha256)

    monkeypatch.setattr(S3Store, "put_file", put_file)
    return refuses


@pytest.mark.parametrize("refused", ["the store answered ExpiredToken; renew them", "No space left on device"])
def test_where_the_bucket_or_the_disk_refuses_training_goes_on_with_the_checkpoint_before(
    place: str, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    run, _ = again(place)
    wanted = trained(run, State(step=1), range(1))
    if "Expired" in refused:
        refusing(monkeypatch, StorageError(refused))
    else:
        full = OSError(errno.ENOSPC, refused)
        monkeypatch.setattr(bucket_checkpoints, "write_part", Mock(side_effect=full))
    said: list[Progress] = []
    with listen(said.append):
        run.step(1)
        run.checkpoints.save(*run.learnt, State(step=2))
        run.checkpoints.settle()
        assert not run.checkpoints.has_failed
    (one,) = said
    assert "step-00000002 is not whole, and the training goes on (a lost worker would go on from step 1): " in one.text
    assert refused in one.text
    assert ("set REGLAGE_CACHE" in one.text) == ("space" in refused)
    found, state = again(place)
    assert state == State(step=1)
    assert same(found.bits(), wanted)
    run.checkpoints.save(*run.learnt, State(step=2))
    with pytest.raises(StorageError, match=refused.split(";")[0]):
        run.checkpoints.settle(must=True)


def test_best_weights_that_could_not_go_up_do_so_later(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = again(place)
    refuses = refusing(monkeypatch, StorageError("no"))
    run.step(0)
    run.checkpoints.keep_best(run.model, 1)
    best = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    run.checkpoints.settle()
    run.step(1)
    run.checkpoints.save(*run.learnt, State(step=2, best_step=1, best_loss=0.5))
    run.checkpoints.settle()
    assert step_saved(RunPlace(place)) == 0  # it would promise them
    refuses[0] = False
    trained(run, State(step=3, best_step=1, best_loss=0.5), range(2, 3))
    run.checkpoints.close()
    shutil.rmtree(RunPlace(place).folder)
    found, state = again(place)
    assert state == State(step=3, best_step=1, best_loss=0.5)
    found.checkpoints.restore_best(found.model, 1)
    assert same(dict(found.model.state_dict()), best)


def test_an_attempt_that_was_given_up_harms_nothing(place: str) -> None:
    old, _ = again(place)
    trained(old, State(step=1), range(1))
    new, state = again(place)
    assert state == State(step=1)
    trained(old, State(step=2), range(1, 2))  # it does not know yet
    wanted = [trained(new, State(step=n), range(n - 1, n)) for n in (2, 3)]
    found, state = again(place)
    assert state == State(step=3)
    assert same(found.bits(), wanted[-1])
    with Curves(RunPlace(place), "tune", active=True) as before:
        before.rewind(0)
        before.write(step=1, loss=0.5)
        before.flush()
        with Curves(RunPlace(place), "tune", active=True) as after:
            after.rewind(1)
            before.write(step=2, loss=9.0)
            after.write(step=2, loss=0.4)
            after.flush()
            with pytest.raises(Exception, match="another attempt"):
                before.flush()
    seen = curves._Reader(RunPlace(place))  # pyright: ignore[reportPrivateUsage]
    seen.look()
    assert (seen.starts, seen.records) == ([0, 1], [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.4}])


WORK = Callable[[Group, str, str, Path], None]


def rank(number: int, of: int, work: WORK, sharding: str, place: str, folder: str, environment: dict[str, str]) -> None:
    torch.set_num_threads(1)
    os.environ.update(environment, GLOO_SOCKET_IFNAME="lo", REGLAGE_CACHE=f"{folder}/node-{number}-of-{of}")
    dist.init_process_group("gloo", init_method=f"file://{environment['MEETING']}", rank=number, world_size=of)
    group = Group(rank=number, world_size=of, device=torch.device("cpu"), one_disk=False)
    work(group, sharding, place, Path(folder))
    dist.barrier()
    dist.destroy_process_group()


def on_nodes(of: int, work: WORK, sharding: str, place: str, folder: Path) -> None:
    # A dead group's meeting would be read again.
    environment = {**{name: os.environ[name] for name in KEYS}, "MEETING": str(folder / f"meeting-{uuid4().hex}")}
    args = (of, work, sharding, place, str(folder), environment)
    mp.spawn(rank, args=args, nprocs=of)  # type: ignore[no-untyped-call]


def save_on_nodes(group: Group, sharding: str, place: str, folder: Path) -> None:
    run = Run(group, sharding, place)
    assert run.checkpoints.restore(*run.learnt) is None
    run.step(0)
    run.checkpoints.keep_best(run.model, 1)
    best = run.bits()
    whole = trained(run, State(step=2, best_step=1, best_loss=0.1), range(1, 2))
    run.checkpoints.close()
    if group.is_first:
        save_file(whole, folder / "whole.safetensors")
        save_file(best, folder / "best.safetensors")


def read_on_nodes(group: Group, sharding: str, place: str, folder: Path) -> None:
    run = Run(group, sharding, place)
    assert run.checkpoints.restore(*run.learnt) == State(step=2, best_step=1, best_loss=0.1)
    assert same(run.bits(), load_file(folder / "whole.safetensors"))
    run.checkpoints.restore_best(run.model, 1)
    best = load_file(folder / "best.safetensors")
    assert all(torch.equal(run.bits()[name], best[name]) for name in unwrap(run.model).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "of", "then"), [("fsdp", 2, 3), ("ddp", 3, 2), ("fsdp", 3, 2), ("fsdp", 2, 2)])
def test_other_nodes_go_on_also_more_or_fewer(place: str, tmp_path: Path, sharding: str, of: int, then: int) -> None:
    on_nodes(of, save_on_nodes, sharding, place, tmp_path)
    on_nodes(then, read_on_nodes, sharding, place, tmp_path)


def test_a_training_in_a_bucket_ends_as_in_a_folder(work: str, bucket: Any, tmp_path: Path) -> None:
    job = make_job(tmp_path, checkpoint_seconds=3600.0)
    whole = train(job, Workspace(tmp_path / "whole"))
    with stopped_at(20):
        train(job, Workspace(work))
    assert step_saved(RunPlace(f"{work}/attempts/{job.fingerprint}")) == 20
    os.environ["REGLAGE_CACHE"] = str(tmp_path / "another machine")
    resumed = train(job, Workspace(work))
    assert resumed.facts["resumed_from_step"] == 20
    assert (resumed.weights, resumed.config) == (whole.weights, whole.config)
    assert losses(resumed.path) == losses(whole.path)
    assert keys(bucket) == []  # what is done leaves nothing behind
    own = {file.relative_to(whole.path).as_posix() for file in whole.path.rglob("*")} - {"result.json"}
    assert own - {file.relative_to(resumed.path).as_posix() for file in resumed.path.rglob("*")} == set()


def test_attempts_hand_on_checkpoints_and_curves_and_share_nothing_else(work: str, bucket: Any, tmp_path: Path) -> None:
    def begun() -> RunPlace:
        return RunPlace(attempt_of(Workspace(work), "f" * 16, tmp_path))

    first = begun()
    run = Run(ALONE, "ddp", first.uri)
    assert run.checkpoints.restore(*run.learnt) is None
    with Curves(first, "tune", active=True) as log:
        log.rewind(0)
        for step in (1, 2, 3):
            log.write(step=step, loss=step / 8)
    wanted = trained(run, State(step=2), range(2))
    curves.ask_to_stop(first)
    first.write(worker.FAILURE, b"{}")
    assert not first.is_superseded
    second = begun()
    assert (first.number, second.number, first.lasting.uri) == (1, 2, second.lasting.uri)
    assert (first.is_superseded, second.is_superseded) == (True, False)
    assert not any(second.has(name) for name in (curves.STOP, worker.FAILURE))
    with pytest.raises(StorageError, match="another attempt has begun"):  # it could delete what the second goes on from
        trained(run, State(step=3), range(2, 3))
    again = Run(ALONE, "ddp", second.uri)
    assert again.checkpoints.restore(*again.learnt) == State(step=2)
    assert same(again.bits(), wanted)
    with Curves(second, "tune", active=True) as log:
        log.rewind(2)
        assert [one["step"] for one in curves.read(second.folder / curves.FILE)] == [1, 2]
        assert [one["step"] for one in curves.read(second.folder / curves.STARTS)] == [0, 2]
    second.write(worker.RESULT, b"{}")
    assert begun().uri == second.uri  # nobody came to record it
    second.end()
    assert keys(bucket) == []
    assert second.is_superseded


MACHINE = """
import sys, time
from pathlib import Path
from ftlib.progress import listen
from ftlib.stages.train import train
from ftlib.storage import claims
from ftlib.workspace import Workspace
from tests.ftlib.training.test_resume import make_job

claims.SECONDS_BETWEEN_BEATS, claims.PATIENCE = 0.2, 2.0
claims.FIRST_LOOK, claims.SECONDS_BETWEEN_LOOKS = 0.05, 0.2

def tell(sign):
    if sign.unit == "steps":
        print(sign.done, flush=True)
        time.sleep(0.1)

job = make_job(Path(sys.argv[2]), checkpoint_seconds=0.3)
with listen(tell):
    made = train(job, Workspace(sys.argv[1]))
print(made.weights, made.facts["resumed_from_step"], flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ends", [False, True])
def test_a_machine_that_comes_back_takes_the_record_of_the_one_that_took_over(
    work: str, bucket: Any, tmp_path: Path, ends: bool
) -> None:
    """It sleeps in mid-training, and wakes while the other trains, or when that is done."""

    def machine(name: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "REGLAGE_CACHE": str(tmp_path / f"{name}-node")}
        argv = [sys.executable, "-c", MACHINE, work, str(tmp_path / name)]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)

    def until(process: subprocess.Popen[str], step: int) -> None:
        assert process.stdout
        for line in process.stdout:
            if int(line) >= step:
                return
        raise AssertionError("it ended")

    one = machine("one")
    until(one, 8)
    one.send_signal(signal.SIGSTOP)
    other = machine("other")
    until(other, 12)
    if ends:
        of_other = other.communicate(timeout=90)[0].splitlines()
        one.send_signal(signal.SIGCONT)
    else:
        one.send_signal(signal.SIGCONT)
        of_other = other.communicate(timeout=90)[0].splitlines()
    of_one = one.communicate(timeout=90)[0].splitlines()
    assert (one.returncode, other.returncode) == (0, 0)
    assert of_one[-1] == of_other[-1]
    assert int(of_one[-1].split()[1]) > 0  # it went on from the first one's checkpoint
    assert of_other[-2] == "30"
    assert "30" not in of_one  # it ended its own work
    assert of_one[-1].split()[0] == train(make_job(tmp_path / "alone"), Workspace(tmp_path / "alone")).weights
    assert keys(bucket) == keys(bucket, "work/claims/") == []


def test_who_follows_sees_numbered_objects_and_asks_to_stop(place: str, tmp_path: Path) -> None:
    there, heard = RunPlace(place), list[Progress]()

    def hear(progress: Progress) -> None:
        heard.append(progress)
        if progress.done == 3:
            raise Interrupted("enough")

    mirror = tmp_path / "curves.jsonl"
    with Curves(there, "tune", active=True) as log:
        log.rewind(0)
        with listen(hear), curves.follow(there, "tune", 9, every_seconds=0.02, mirror=mirror):
            for step in (1, 2, 3):
                log.write(step=step, loss=0.5)
            log.flush()
            deadline = time.monotonic() + 20
            while not log.asks_to_stop and time.monotonic() < deadline:
                time.sleep(0.05)
        assert log.asks_to_stop
    assert [one["step"] for one in curves.read(mirror)] == [1, 2, 3]


def test_signs_of_life_go_by_the_store_s_clock(place: str) -> None:
    there = RunPlace(place)
    with Heartbeat(there, 1, 2) as beat:
        beat.at("in step 3 of 9")
        (sign,) = signs(there)
    assert (sign.rank, sign.age) == (1, 0.0)


def test_who_finds_its_files_deleted_by_the_one_that_was_first_ends(place: str) -> None:
    run, _ = again(place)
    run.checkpoints.keep_best(run.model, 1)
    run.checkpoints.settle(must=True)
    RunPlace(place).clear("checkpoints")
    run.checkpoints.save(*run.learnt, State(step=2, best_step=1))
    with pytest.raises(StorageError, match=r"best-00000001-.*, which it promises, is gone"):
        run.checkpoints.settle(must=True)  # it waited for ever


def test_a_result_that_is_there_counts_whatever_another_machine_left(tmp_path: Path) -> None:
    (tmp_path / worker.RESULT).write_text('{"steps": 3}')
    (tmp_path / worker.FAILURE).write_text('{"kind": "Interrupted", "message": "stopped on request"}')
    assert worker.outcome(Mock(place=RunPlace(str(tmp_path)))) == {"steps": 3}
    assert not (tmp_path / worker.FAILURE).exists()


def test_damaged_best_weights_are_refused(place: str, bucket: Any) -> None:
    run, _ = again(place)
    run.checkpoints.keep_best(run.model, 1)
    run.checkpoints.settle()
    shutil.rmtree(RunPlace(place).folder)
    for one in bucket.objects.all():
        if one.key.endswith(".safetensors"):
            one.put(Body=b"?" * 5000)
    with pytest.raises(IntegrityError, match=r"best-00000001.*the weights are damaged"):
        run.checkpoints.restore_best(run.model, 1)


@pytest.mark.ray
@pytest.mark.slow
def test_an_elastic_training_shrinks_and_grows_with_the_same_loss(
    work: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node is killed and another one comes: the losses are those of one process that was never disturbed."""
    import ray
    from ray.cluster_utils import Cluster

    from ftlib.on_ray import trainer
    from ftlib.on_ray.session import driver_environment

    settings = {"kind": "sgd", "learning_rate": 0.01, "epochs": 2000, "batch_size": 16}
    job = make_job(tmp_path)
    phase = {**job.phase.model_dump(), "dropout": 0.0, "optimizer": settings, "early_stopping": None}
    job = job.model_copy(update={"phase": Phase.model_validate(phase)})
    elastic = {"workers": {"at_least": 1, "at_most": 2}, "threads": 1, "checkpoint_seconds": 1.0, "max_failures": 5}
    asked = job.model_copy(update={"compute": Compute.model_validate(elastic)})
    monkeypatch.setattr(trainer, "_RESIZE_SECONDS", 5.0)
    for name, value in driver_environment(asked.compute).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1)]
    ray.init(cluster.address, log_to_driver=False)
    steps, restarts, enough = [0], list[int](), threading.Event()

    def hear(sign: Progress) -> None:
        if sign.unit == curves.STEPS:
            steps.append(sign.done)
        if sign.unit == curves.RESTART:
            restarts.append(sign.done)
        if enough.is_set():
            raise Interrupted("enough")

    def until(came: Callable[[], bool]) -> None:
        ends = time.monotonic() + 120
        while not came() and time.monotonic() < ends:
            time.sleep(0.1)
        assert came()

    ended: list[BaseException] = []

    def training() -> None:  # nodes are added in the main thread alone
        try:
            with listen(hear):
                train(asked, Workspace(work))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=training)
    thread.start()
    try:
        until(lambda: steps[-1] > 40)
        cluster.remove_node(nodes.pop())
        until(lambda: len(restarts) == 1)
        nodes.append(cluster.add_node(num_cpus=1))
        until(lambda: len(restarts) == 2 and steps[-1] > restarts[1] + 40)
    finally:
        enough.set()
        thread.join()
        ray.shutdown()
        cluster.shutdown()
    assert [type(error) for error in ended] == [Interrupted]
    assert len(restarts) == 2
    seen = curves._Reader(RunPlace(f"{work}/attempts/{job.fingerprint}/00000001"))  # pyright: ignore[reportPrivateUsage]
    seen.look()
    last = int(seen.records[-1]["step"])
    with stopped_at(last):
        train(job, alone := Workspace(tmp_path / "alone"))
    one = curves.read(alone.folder(job).with_suffix(".work") / curves.FILE)
    losses_of = [{int(r["step"]): r["loss"] for r in records if "loss" in r} for records in (seen.records, one)]
    assert [*losses_of[0]] == [*range(1, last + 1)]
    assert losses_of[0] == pytest.approx({n: losses_of[1][n] for n in range(1, last + 1)}, rel=1e-4)


def train_on_nodes(group: Group, plan: str, run: str, folder: Path) -> None:
    """Train a plan at a place; with a file `die` there, the first rank dies at step 12 and takes the others with it."""
    torch.set_num_threads(1)
    dying = (folder / "die").exists()

    def die(sign: Progress) -> None:
        if dying and sign.unit == curves.STEPS and sign.done >= 12 and step_saved(RunPlace(run)) > 4:
            os._exit(9)

    asked = Plan.model_validate_json(Path(plan).read_text())
    compute = asked.compute.model_copy(update={"workers": group.world_size})
    with listen(die):
        worker.work(asked.model_copy(update={"run": run, "compute": compute}))


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "then"), [("ddp", 2), ("fsdp", 2), ("fsdp", 3)])
def test_killed_ranks_go_on_from_the_bucket_and_end_with_the_same_weights(
    work: str, bucket: Any, tmp_path: Path, sharding: str, then: int
) -> None:
    job = make_job(tmp_path, ema_decay=0.9, sharding=sharding)
    plan = Plan(
        fingerprint=job.fingerprint,
        start=job.start,
        parts=(Part(name="d", folder=job.parts[0].uri),),
        run="",
        kind="labeled",
        labels=job.start.labels,
        phase=job.phase.model_copy(update={"dropout": 0.0}),
        precision="fp32",
        seed=3,
        compute=job.compute,
    )
    file = tmp_path / "plan.json"
    file.write_text(plan.model_dump_json())
    folder, there = str(tmp_path / "in-a-folder"), f"{work}/attempts/{job.fingerprint}"
    on_nodes(2, train_on_nodes, str(file), folder, tmp_path)
    whole = worker.outcome(plan.model_copy(update={"run": folder}))
    (tmp_path / "die").touch()
    with pytest.raises(mp.ProcessExitedException):
        on_nodes(2, train_on_nodes, str(file), there, tmp_path)
    (tmp_path / "die").unlink()
    for node in tmp_path.glob("node-*"):
        shutil.rmtree(node)  # these are other nodes
    on_nodes(then, train_on_nodes, str(file), there, tmp_path)
    came = tmp_path / "came"
    resumed = worker.outcome(plan.model_copy(update={"run": there}), came)
    assert int(resumed["resumed_from_step"]) > 4
    assert resumed["steps"] == whole["steps"]
    one, other = (load_file(Path(at, "model", "model.safetensors")) for at in (folder, came))
    assert one.keys() == other.keys()
    for name in one:
        if then == 2:
            assert torch.equal(one[name], other[name]), name
        else:  # the order of sums is another one
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    own = {file.relative_to(folder).as_posix() for file in Path(folder, "model").rglob("*")}
    assert own == {file.relative_to(came).as_posix() for file in (came / "model").rglob("*")}
    nodes = [*tmp_path.glob(f"node-*-of-{then}")]
    assert not [file for node in nodes for file in node.rglob("*.safetensors")]  # but for what a cache has by digest
    assert len([node for node in nodes if [*node.glob("blobs/*/*")]]) == 1  # on the first rank's disk


@pytest.mark.slow
def test_fisher_adapters_and_snapshots_come_back_whole(work: str, bucket: Any, tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job = job.model_copy(update={"start": job.start.model_copy(update={"fresh_head": False})})
    measuring = FisherJob(
        start=job.start, data=job.parts, names=("d",), rows=8, seed=0, compute=Compute(workers=0, threads=1)
    )
    lora = {**job.phase.model_dump(), "tuning": {"kind": "lora", "rank": 2, "keep": "adapter"}}
    ewc = {**job.phase.model_dump(), "penalty": {"kind": "ewc", "datasets": ["d"], "rows": 8}}
    asked = [
        job.model_copy(update={"phase": Phase.model_validate({**lora, "snapshots": {"steps": [6]}})}),
        job.model_copy(update={"phase": Phase.model_validate({**ewc, "early_stopping": None})}),
    ]
    made: list[list[object]] = []
    for place in (Workspace(tmp_path / "folder"), Workspace(work)):
        fisher_information = fisher(measuring, place)
        adapter = train(asked[0], place)
        held = train(asked[1].model_copy(update={"fisher": fisher_information}), place)
        assert adapter.form == "adapter"
        made.append([fisher_information.content, adapter.weights, held.weights, *adapter.snapshots])
    assert made[0] == made[1]
    assert keys(bucket) == []
