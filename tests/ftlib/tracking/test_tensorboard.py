"""Event files, read back by a reader of the record format that shares no code with the writer: checksums and all."""

from __future__ import annotations

import itertools
import json
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from flows.pages.finetune_form import Tracking
from flows.run.tracked import tracked
from ftlib.errors import Interrupted
from ftlib.evaluation.measured import Estimate, EvalReport, Measured
from ftlib.progress import listen
from ftlib.recipe.file import load_recipe
from ftlib.stages.step import Step
from ftlib.tracking.state import Curve, RunState
from ftlib.tracking.tensorboard import TensorBoard
from ftlib.training.checkpoints.run_place import RunPlace
from ftlib.training.curves import Curves
from ftlib.workspace import Workspace

speeds = itertools.count(100.25)
RECIPE = Path(__file__).parents[3] / "recipes" / "quickstart.yaml"


def crc32c(data: bytes) -> int:
    """Castagnoli's polynomial, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17 & 0xFFFFFFFF)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[bytes]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        (size,) = struct.unpack("<Q", data[at : at + 8])
        assert struct.unpack("<I", data[at + 8 : at + 12]) == (masked(data[at : at + 8]),)
        body = data[at + 12 : at + 12 + size]
        assert struct.unpack("<I", data[at + 12 + size : at + 16 + size]) == (masked(body),)
        yield body
        at += 16 + size


def events(folder: Path) -> list[Any]:
    from tensorboardX.proto import event_pb2

    (path,) = folder.glob("events.out.tfevents.*")
    return [event_pb2.Event.FromString(body) for body in records(path)]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    found = [(e.step, value) for e in events(folder) for value in e.summary.value if value.tag == tag]
    return [(step, value.simple_value) for step, value in found]


def texts(folder: Path) -> str:
    values = [value for e in events(folder) for value in e.summary.value if value.HasField("tensor")]
    return "".join(value.tensor.string_val[0].decode() for value in values)


def train(run: Path, start: int, stop: int, *, scale: float = 1.0) -> None:
    """Write a curve as the loop does, from behind step `start` on."""
    run.mkdir(parents=True, exist_ok=True)
    with Curves(RunPlace(str(run)), "tune", active=True) as curves:
        curves.rewind(start)
        for step in range(start + 1, stop + 1):
            speed = next(speeds)  # never the same twice
            curves.write(step=step, epoch=step / 4, loss=scale / step, learning_rate=0.5, samples_per_second=speed)
            if step % 4 == 0:
                curves.write(step=step, epoch=step / 4, validation_loss=scale / step, **{"loss:part": 2.0})


def numbers(*steps: int) -> list[tuple[int, float]]:
    return [(step, pytest.approx(1 / step)) for step in steps]


def cell(candidate: str, split: str, value: float | None) -> Measured:
    metric = Estimate(value=value, low=value and value - 0.1, high=value and value + 0.1)
    return Measured.model_validate(
        {"candidate": candidate, "weights": "w", "alpha": None, "evaluation": "home", "split": split, "rows": 4,
         "outcomes": "o", "metrics": {"accuracy": metric}}
    )  # fmt: skip


def test_a_run_that_is_killed_and_resumed_shows_each_step_once(tmp_path: Path) -> None:
    final = tmp_path / "stages" / "train" / "0123"
    work, state = final.with_suffix(".work"), RunState(load_recipe(RECIPE))
    state.curves.append(Curve("tune", "0123", final))
    board, folder = TensorBoard(tmp_path / "tb"), tmp_path / "tb" / "quickstart" / state.key / "tune"

    def look() -> None:
        assert state.curves[0].read()
        board.show(state)

    train(work, 0, 6)
    with (work / "curves.jsonl").open("a") as stream:
        stream.write('{"step": 7, "loss"')  # killed in the middle of a line
    look()
    assert scalars(folder, "loss") == numbers(*range(1, 7))
    first = next(folder.iterdir())
    (folder / "events.out.tfevents.1.another").write_bytes(b"")
    train(work, 4, 9)  # resumed from step 4: 5 and 6 are done again
    look()
    (folder / "events.out.tfevents.1.another").unlink()
    assert scalars(folder, "loss") == numbers(*range(1, 10))
    assert scalars(folder, "validation_loss") == numbers(4, 8)
    assert scalars(folder, "loss/part") == [(4, 2.0), (8, 2.0)]
    assert not first.exists()
    assert events(folder)[0].file_version == "brain.Event:2"
    assert events(folder)[1].session_log.status == 1, "a TensorBoard that runs forgets what it has read"
    train(work, 9, 12)
    work.rename(final)
    look()
    assert scalars(folder, "loss") == numbers(*range(1, 13))
    assert not state.curves[0].read()
    # Another process, of the resumed run or of `reglage tensorboard`, draws the same.
    again = RunState(state.recipe, curves=[Curve("tune", "0123", final)])
    again.curves[0].read()
    TensorBoard(tmp_path / "tb").show(again)
    assert scalars(folder, "loss") == numbers(*range(1, 13))
    train(final, 12, 14)
    look()  # its file is gone: it begins another
    assert scalars(folder, "loss") == numbers(*range(1, 15))


def test_a_file_that_was_written_again_at_the_same_length_is_seen(tmp_path: Path) -> None:
    run = tmp_path / "0123.work"
    train(run, 0, 8)
    curve = Curve("tune", "0123", tmp_path / "0123")
    assert curve.read()
    train(run, 0, 8, scale=2.0)
    assert curve.read()
    assert [record["loss"] for record in curve.records if "learning_rate" in record] == [2 / s for s in range(1, 9)]
    assert curve.generation == 1


class Job:
    stage, fingerprint = "train", "0123"


def test_live(tmp_path: Path) -> None:
    recipe, work = load_recipe(RECIPE), Workspace(tmp_path / "work")
    final = work.root / "stages" / "train" / "0123"
    reports = [EvalReport(measured=(cell("alpha=0", "validation", 0.5), cell("alpha=1", "validation", None)))]
    reports.append(EvalReport(measured=(cell("base", "test", 0.25), cell("tune", "test", 0.75))))
    job: Any = Job()
    work.folder = lambda job: final  # type: ignore[method-assign]
    heard: list[object] = []
    train(final.with_suffix(".work"), 0, 3)

    def stopped() -> None:
        with tracked(
            Tracking(tensorboard=str(tmp_path / "tb")), recipe, work, lambda *_: heard.append(1), lambda *_: None
        ) as run:
            run.begun(Step(main, job, "tune"))
            train(final.with_suffix(".work"), 3, 5)
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        stopped()
    (folder,) = (tmp_path / "tb" / "quickstart").iterdir()
    assert scalars(folder / "tune", "loss") == numbers(*range(1, 6))
    with tracked(
        Tracking(tensorboard=str(tmp_path / "tb")), recipe, work, lambda *_: heard.append(1), lambda *_: None
    ) as run:
        run.begun(Step(main, job, "tune"))
        train(final.with_suffix(".work"), 4, 6)
        for report in reports:
            run.made(Step(main, None, "home"), report)
    assert [folder] == [*(tmp_path / "tb" / "quickstart").iterdir()]
    assert scalars(folder / "tune", "loss") == numbers(*range(1, 7))
    assert scalars(folder / "evaluations", "home/accuracy validation") == [(0, 0.5)]
    assert scalars(folder / "evaluations", "home/accuracy test") == [(0, 0.25), (1, 0.75)]
    assert "| test | home/accuracy | 1 | tune | 0.7500 | 0.6500 to 0.8500 |" in texts(folder / "evaluations")
    assert "    name: quickstart" in texts(folder)
    assert heard == [1, 1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("track by")]


def test_a_folder_that_cannot_be_written_warns_once_and_fails_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    work, said = Workspace(tmp_path / "work"), list[str]()
    train(work.root / "stages" / "train" / "0123.work", 0, 3)
    job: Any = Job()
    with (
        listen(lambda sign: said.append(sign.text)),
        tracked(
            Tracking(tensorboard=str(tmp_path / "file" / "tb")),
            load_recipe(RECIPE),
            work,
            lambda *_: None,
            lambda *_: None,
        ) as run,
    ):
        run.begun(Step(main, job, "tune"))
    assert len([text for text in said if "the run goes on" in text]) == 1


def test_the_command_draws_what_is_not_over(tmp_path: Path) -> None:
    run = tmp_path / "work" / "stages" / "train" / "0123.work"
    train(run, 0, 3)
    (run / "plan.json").write_text(json.dumps({"phase": {"name": "tune"}}))
    arguments = ["tensorboard", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "tb")]
    for _ in range(2):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        assert "no runs, 1 training" in result.output
    assert scalars(tmp_path / "tb" / "unfinished" / "0123" / "tune", "loss") == numbers(1, 2, 3)
    result = CliRunner().invoke(main, ["tensorboard", "quickstart", *arguments[1:]])
    assert result.exit_code == 3
    assert "no finished run 'quickstart'; there are none" in result.output
    result = CliRunner().invoke(main, ["tensorboard", "--work", str(tmp_path / "empty"), "--out", str(tmp_path)])
    assert "holds no run and no training" in result.output
