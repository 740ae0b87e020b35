import contextlib
import io
import signal
import time
from collections.abc import Iterator

import pytest
from rich.console import Console

from flows.command_line.terminal import STOPPED, Lines, facts_line, stage_line, stoppable
from ftlib.data.datasets import Ledger, RawDataset
from ftlib.progress import BYTES, Progress, listen, note
from ftlib.training.curves import RESTART
from tasks.runner import STAGE, telling


def test_a_log_gets_a_line_for_every_stage_and_few_for_its_steps():
    text = io.StringIO()
    lines = Lines(Console(file=text, width=100))
    for step in range(1000):
        lines(Progress("train tune", step, 1000, "steps", {"loss": 1.0}))
    lines(Progress("train tune", 1, 1, STAGE, {"done_before": 0.0, "seconds": 12.34}))
    assert text.getvalue().split() == ["✓", "train", "tune", "12.3", "s"]


def test_bytes_are_told_in_units_that_people_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.command_line.terminal.LINE_EVERY_SECONDS", -1.0)
    text = io.StringIO()
    Lines(Console(file=text, width=100))(Progress("upload", 952, 91_571_270, BYTES))
    assert text.getvalue().split() == ["upload", "952", "bytes", "of", "91.6", "MB"]


def test_a_stage_that_was_done_before_is_marked_done_before():
    assert "done before" in stage_line(Progress("base", 1, 1, STAGE, {"done_before": 1.0, "seconds": 3.0}))


def test_the_numbers_beside_a_bar():
    facts = {"loss": 0.123456, "samples_per_second": 45.678}
    assert facts_line(Progress("train", 1, 2, "steps", facts)) == "loss 0.1235  samples/s 45.68"


def test_rows_lost_and_a_resumed_training_are_said_with_the_stage():
    rows = Progress("ingest docs", 1, 1, STAGE, {"seconds": 1.0, "rows_in": 1200.0, "rows_kept": 1100.0})
    assert "1,100 of 1,200 rows kept" in stage_line(rows)
    trained = Progress("train tune", 1, 1, STAGE, {"seconds": 1.0, "resumed_from_step": 24.0})
    assert "resumed from step 24" in stage_line(trained)


def test_dropped_rows_say_reasons_counts_and_remedies_and_the_line_is_not_cut():
    raw = RawDataset(
        content="c",
        columns=(),
        files=(),
        ledger=Ledger(rows_in=1300, kept=60, dropped={"duplicate": 7, "tag_not_iob2": 1230, "near_leaked": 3}),
    )
    text = io.StringIO()
    sign = Progress("preprocess home", 1, 1, STAGE, {"done_before": 1.0, **telling(raw)})
    Lines(Console(file=text, width=40))(sign)
    first, remedy = text.getvalue().splitlines()
    assert first.endswith("done before, 60 of 1,300 rows kept: 1,230 tag_not_iob2, 7 duplicate, 3 near_leaked")
    assert all(scheme in remedy for scheme in ("IOB2", "IOBES", "BIOES", "BILOU"))


@pytest.mark.parametrize(("step", "said"), [(24, "goes on from step 24"), (0, "there was no checkpoint yet")])
def test_a_restarted_training_gets_a_line_when_it_happens(step: int, said: str):
    text = io.StringIO()
    Lines(Console(file=text, width=140))(Progress("train tune", step, 90, RESTART))
    assert said in text.getvalue()


def test_a_note_is_one_line_as_it_was_said():
    text = io.StringIO()
    with listen(Lines(Console(file=text, width=40))):
        note("labels", "label 'True' is also written 'true' (6 rows of [home]): one label, published as 'True'")
    assert text.getvalue().count("\n") == 1
    assert "(6 rows of [home]): one label, published as 'True'" in text.getvalue()


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The exit codes with which this process would have been ended hard, soon instead of after seconds."""
    codes: list[int] = []
    monkeypatch.setattr("flows.command_line.terminal.os._exit", codes.append)
    monkeypatch.setattr("flows.command_line.terminal.GRACE_SECONDS", 0.05)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield codes
    for number, handler in before.items():
        signal.signal(number, handler)


def wait_for(codes: list[int]) -> None:
    deadline = time.monotonic() + 30
    while not codes:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_without_a_signal_the_handlers_are_given_back(ended):
    before = signal.getsignal(signal.SIGTERM)
    with stoppable(print):
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    assert ended == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block_and_soon_after_the_process(ended, number):
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), stoppable(said.append):
        signal.raise_signal(number)
    wait_for(ended)
    assert ended == [130]
    assert said == []  # the command says it, as every error


def test_a_block_that_does_not_end_is_ended_and_says_so(ended):
    said: list[str] = []
    with stoppable(said.append):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        wait_for(ended)
    assert (ended, said) == ([130], [STOPPED])
