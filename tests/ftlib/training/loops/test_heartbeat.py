"""A rank that hangs, or is gone, is named by those that wait for it."""

from __future__ import annotations

import json
import os
import re
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from ftlib.errors import TransientError
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.group import Group
from ftlib.training.loops import heartbeat
from ftlib.training.loops.heartbeat import Heartbeat, lost, signs


def said(run: Path, rank: int, where: str, ago: float, *, gave_up: bool = False) -> None:
    file = run / heartbeat.FOLDER / f"{rank:05d}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"where": where, "seconds": 3.0, "gave_up": gave_up}))
    now = time.time()
    os.utime(file, (now - ago, now - ago))


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_OTHERS_SECONDS", 0.05)


GLOO = "[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation"


def fail(run: Path, error: Exception, world_size: int = 4) -> None:
    with Heartbeat(RunPlace(str(run)), 0, world_size) as beat, beat.watching("tune"):
        beat.at("in step 12 of 90")
        raise error


def told(run: Path, error: RuntimeError) -> str:
    with pytest.raises(TransientError) as caught:
        fail(run, error)
    return str(caught.value)


def test_the_rank_that_fell_silent_is_named_with_its_step(tmp_path: Path) -> None:
    said(tmp_path, 1, "in step 12 of 90", 0)
    said(tmp_path, 2, "in step 11 of 90", 612)
    said(tmp_path, 3, "in step 12 of 90", 0, gave_up=True)
    message = told(tmp_path, RuntimeError(GLOO))
    assert message.startswith("phase tune: rank 0 waited in vain in step 12 of 90, after 0 s (")
    assert "Timed out waiting 600000ms" in message
    assert "rank 2 was last heard of 612 s ago, in step 11 of 90. Look at that rank's node" in message
    assert "rank 1" not in message
    assert "rank 3" not in message
    assert [sign.rank for sign in lost(RunPlace(str(tmp_path)))] == [2]


def test_a_rank_that_is_gone_is_not_said_to_be_somewhere(tmp_path: Path) -> None:
    """Ray knows of a lost worker long before its silence would tell."""
    said(tmp_path, 0, "in step 12 of 90", 0)
    said(tmp_path, 1, "in step 11 of 90", 4)
    assert [sign.last_heard for sign in lost(RunPlace(str(tmp_path)))] == [
        "rank 1 was last heard of 4 s ago, in step 11 of 90"
    ]
    said(tmp_path, 1, "in step 12 of 90", 0)
    assert lost(RunPlace(str(tmp_path))) == []
    assert [sign.rank for sign in lost(RunPlace(str(tmp_path)), [1])] == [1]


def test_if_all_are_heard_of_those_that_did_not_give_up_are_named(tmp_path: Path) -> None:
    said(tmp_path, 1, "in step 12 of 90", 0, gave_up=True)
    said(tmp_path, 2, "in the evaluation after step 11 of 90", 1)
    assert "): rank 2 is in the evaluation after step 11 of 90, for 3 s. Look" in told(tmp_path, RuntimeError(GLOO))
    said(tmp_path, 2, "in step 12 of 90", 0, gave_up=True)
    assert "all others gave up as well, so it may be the network" in told(tmp_path, RuntimeError(GLOO))


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("gloo")])
def test_other_errors_pass_as_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))):
        fail(tmp_path, error)


def test_a_rank_that_is_alone_says_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="gloo"):
        fail(tmp_path, RuntimeError(GLOO), world_size=1)
    assert signs(RunPlace(str(tmp_path))) == []


def rank(number: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=number, world_size=2, timeout=timedelta(seconds=2))
    group = Group.join(2, use_gpu=False)
    with Heartbeat(RunPlace(folder), number, 2) as beat:
        for step in (1, 2):
            beat.at(f"in step {step} of 9")
            if (step, number) == (2, 1):
                time.sleep(6.0)
                os._exit(0)
            try:
                with beat.watching("tune"):
                    group.sum(1.0)
            except TransientError as error:
                (Path(folder) / "told").write_text(str(error))
                os._exit(0)


@pytest.mark.slow
def test_two_ranks_of_which_one_sleeps(tmp_path: Path) -> None:
    mp.spawn(rank, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    message = (tmp_path / "told").read_text()
    assert re.match(r"phase tune: rank 0 waited in vain in step 2 of 9, after [2-5] s \(.*[Tt]imed out", message)
    assert re.search(r"rank 1 is in step 2 of 9, for [2-7] s\. Look at that rank's node and log; raise", message)
