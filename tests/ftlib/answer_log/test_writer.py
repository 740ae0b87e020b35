"""Records go to files that are whole, behind the caller's back; a place that refuses costs records, never a caller."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from ftlib.answer_log.record import LiveAnswer
from ftlib.answer_log.writer import ANSWERS, LogWriter
from ftlib.errors import StorageError
from ftlib.storage import LocalStore


def answer(number: int) -> LiveAnswer:
    return LiveAnswer(request=f"r{number}", at="2026-11-28T06:00:00Z", name="mail", version=1)


def requests_in(folder: Path) -> list[str]:
    lines = [line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()]
    return [LiveAnswer.model_validate_json(line).request for line in lines]


class Dead(LocalStore):
    """A place that refuses until it is mended."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.mended = threading.Event()
        self.tried: list[str] = []

    def create(self, path: str, data: bytes) -> bool:
        self.tried.append(path)
        if not self.mended.is_set():
            raise StorageError("no room here; free some")
        return super().create(path, data)


def test_all_records_are_in_files_of_so_many_rows_at_the_end(tmp_path: Path) -> None:
    log = LogWriter(LocalStore(tmp_path), ANSWERS, rows=4, seconds=600)
    for number in range(10):
        log.append(answer(number))
    log.close()
    assert sorted(requests_in(tmp_path / ANSWERS)) == sorted(f"r{number}" for number in range(10))
    assert all(len(file.read_text().splitlines()) <= 4 for file in (tmp_path / ANSWERS).iterdir())
    assert log.state().model_dump(exclude={"place"}) == {"written": 10, "waiting": 0, "dropped": 0, "error": None}


def test_a_file_appears_after_its_seconds_without_an_end(tmp_path: Path) -> None:
    log = LogWriter(LocalStore(tmp_path), ANSWERS, rows=1000, seconds=0.05)
    log.append(answer(1))
    while not log.state().written:  # pytest's time limit ends it
        threading.Event().wait(0.01)
    assert requests_in(tmp_path / ANSWERS) == ["r1"]
    log.close()


def test_two_writers_share_a_place(tmp_path: Path) -> None:
    logs = [LogWriter(LocalStore(tmp_path), ANSWERS, rows=3, seconds=600) for _ in range(2)]
    for number in range(12):
        logs[number % 2].append(answer(number))
    for log in logs:
        log.close()
    assert sorted(requests_in(tmp_path / ANSWERS)) == sorted(f"r{number}" for number in range(12))


def test_a_place_that_refuses_costs_what_has_no_room_and_is_told(tmp_path: Path) -> None:
    store = Dead(tmp_path)
    log = LogWriter(store, ANSWERS, rows=2, seconds=0.05, most=5)
    for number in range(9):
        log.append(answer(number))
    while log.state().error is None:
        threading.Event().wait(0.01)
    assert log.state().dropped == 4
    assert "no room here" in str(log.state().error)
    store.mended.set()
    log.close()
    assert requests_in(tmp_path / ANSWERS) == [f"r{number}" for number in range(5)]
    assert log.state().error is None


def test_a_write_whose_reply_was_lost_is_not_written_twice(tmp_path: Path) -> None:
    class Lost(LocalStore):
        tries = 0

        def create(self, path: str, data: bytes) -> bool:
            self.tries += 1
            made = super().create(path, data)
            if self.tries == 1:
                raise TimeoutError("no reply")
            return made

    store = Lost(tmp_path)
    log = LogWriter(store, ANSWERS, rows=1, seconds=0.02)
    log.append(answer(7))
    while not log.state().written:
        threading.Event().wait(0.01)
    log.close()
    assert requests_in(tmp_path / ANSWERS) == ["r7"]


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    log = LogWriter(LocalStore(tmp_path), ANSWERS)
    log.close()
    log.append(answer(1))
    assert log.state().dropped == 1
    assert not (tmp_path / ANSWERS).exists()


@pytest.mark.parametrize("text", ["line\nbreak", "\u2028", '"quoted"'])
def test_a_record_is_one_line_whatever_it_says(tmp_path: Path, text: str) -> None:
    log = LogWriter(LocalStore(tmp_path), ANSWERS)
    log.append(answer(1).model_copy(update={"input": text}))
    log.close()
    (file,) = (tmp_path / ANSWERS).iterdir()
    (line,) = file.read_bytes().splitlines()
    said: Any = json.loads(line)
    assert said["input"] == text
