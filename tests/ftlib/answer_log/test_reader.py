"""A log is read whole, each answer once, whatever is damaged in it and in whatever order it lies."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ftlib.answer_log import files as files_module
from ftlib.answer_log.place import AnswerLog
from ftlib.answer_log.reader import Answer, Asked, Reading, moment, read_log
from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.errors import StorageError

NOW = datetime.now(UTC)
ASKED = Asked("router", 3, "m3", (NOW - timedelta(days=7)).timestamp(), NOW.timestamp())


def answer(request: str, ago: float = 60.0, **given: Any) -> dict[str, Any]:
    """A record as serving writes it, `ago` seconds old."""
    at = (NOW - timedelta(seconds=ago)).isoformat()
    values = {"request": request, "at": at, "name": "router", "version": 3, "label": "bug", "probability": 0.5, **given}
    return LiveAnswer.model_validate(values).model_dump(mode="json")


def late(request: str, ago: float = 30.0, **given: Any) -> dict[str, Any]:
    values = {"request": request, "at": (NOW - timedelta(seconds=ago)).isoformat(), **given}
    return LateLabel.model_validate(values).model_dump(mode="json")


def write(path: Path, records: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one if isinstance(one, str) else json.dumps(one)}\n" for one in records))


def read(place: Path | str, asked: Asked = ASKED, **given: Any) -> tuple[list[Answer], Reading]:
    with read_log(AnswerLog(place=str(place), **given), asked) as window:
        return [*window.answers()], window.reading


def test_an_answer_is_joined_with_the_newest_label_and_the_newest_thumb(tmp_path: Path) -> None:
    write(tmp_path / "answers" / "1.jsonl", [answer("a"), answer("b"), answer("c")])
    said = [
        late("a", 10, label="sales"),
        late("a", 5, thumb=False),
        late("a", 20, label="billing"),
        late("b", 9, thumb=True),
        late("b", 8, correction="better"),
        late("z", 9, label="bug"),
    ]
    for order in range(4):
        random.Random(order).shuffle(said)
        write(tmp_path / "labels" / "1.jsonl", said)
        answers, reading = read(tmp_path)
        assert Counter((one.right_label, one.thumb) for one in answers) == Counter(
            [("sales", False), (None, True), (None, None)]
        )
        counts = (reading.answers, reading.labelled, reading.thumbs, reading.labels_elsewhere, reading.labels_replaced)
        assert counts == (3, 1, 2, 1, 1)


def test_neither_the_order_of_files_nor_of_lines_nor_a_second_copy_matters(tmp_path: Path) -> None:
    rng = random.Random(0)
    records = [answer(f"r{i}", ago=rng.uniform(1, 86_400), label=rng.choice(["a", "b"])) for i in range(300)]
    records += [{**one, "label": "other"} | {"at": NOW.isoformat()} for one in records[:50]]  # written again, later
    found: list[Any] = []
    for order in range(3):
        place = tmp_path / str(order)
        rng.shuffle(records)
        for part in range(order + 1):
            write(place / "answers" / f"{rng.random()}.jsonl", records[part :: order + 1])
        answers, reading = read(place)
        found.append((answers, reading.answers, reading.left_out))
    assert found[0] == found[1] == found[2]
    assert found[0][1:] == (300, {"written more than once": 50})
    assert "other" not in {one.label for one in found[0][0]}


def test_what_is_no_answer_of_the_version_in_the_window_is_counted_by_its_reason(tmp_path: Path) -> None:
    records = [
        answer("ours", manifest="m3"),
        answer("shadow", traffic="shadow"),
        answer("older", version=2),
        answer("elsewhere", manifest="another registry's"),
        answer("model", name="other"),
        answer("early", ago=8 * 86_400),
        answer("clock", ago=-7200),
    ]
    write(tmp_path / "answers" / "1.jsonl", records)
    answers, reading = read(tmp_path)
    assert (len(answers), reading.answers) == (1, 1)
    assert reading.left_out == {
        "answered before the window": 1,
        "dated after now: a clock was wrong": 1,
        "made in the shadow of another version's": 1,
        "of another model": 2,
        "of another version": 1,
    }


def test_damage_is_counted_with_its_first_place_and_loses_no_other_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "LONGEST_LINE", 2000)
    lines = [
        answer("whole"),
        "{broken",
        "[1, 2]",
        '"\\ud800"',
        "\x00\x00",
        "{" * 1500,
        json.dumps(answer("huge", input="x" * 9000)),
        {**answer("no time"), "at": "yesterday"},
        {key: value for key, value in answer("timeless").items() if key != "at"},
        {**answer("zero"), "version": 0},
        {**answer("odd"), "probability": 1.5},
        {**answer("measure"), "measures": {"length": "long"}},
        "",
        answer("last"),
    ]
    write(tmp_path / "answers" / "1.jsonl", lines)
    (tmp_path / "answers" / "2.jsonl").write_bytes(b"\xff\xfe\n" + json.dumps(answer("third")).encode())  # killed
    (tmp_path / "answers" / "3.parquet").write_bytes(b"PAR1 no table")
    (tmp_path / "answers" / "4.txt").write_text("notes")
    (tmp_path / "answers" / ".hidden.jsonl").write_text("{")
    (tmp_path / "answers" / "growing.jsonl.tmp").write_text("{")
    write(tmp_path / "labels" / "1.jsonl", [late("whole", label="bug"), late("whole"), late("whole", -9000, label="x")])
    answers, reading = read(tmp_path)
    assert reading.answers == len(answers) == 3
    assert reading.labelled == 1
    found = {reason: (one.count, one.first) for reason, one in reading.damaged.items()}
    assert found["a line that is no JSON"] == (4, "1.jsonl:2")
    assert found["a line that is no JSON object"] == (2, "1.jsonl:3")
    assert found["a line of more than 0 MiB"] == (1, "1.jsonl:7")
    assert found["no time (at)"] == (1, "1.jsonl:9")
    assert found["a time (at) that is not ISO 8601"] == (1, "1.jsonl:8")
    assert found["a label that says nothing"] == (1, "1.jsonl:2")
    assert found["a label that is dated after now: a clock was wrong"] == (1, "1.jsonl:3")
    assert {reason.partition(":")[0] for reason in found} >= {"version", "probability", "measures"}
    assert sum("parquet" in reason for reason in found) == 2
    assert reading.damages == sum(count for count, _ in found.values()) == 16


def test_another_server_s_table_is_read_by_its_columns_names(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": [1, 2, 3],
            "when": pa.array([NOW - timedelta(minutes=i) for i in range(3)], pa.timestamp("us", "UTC")),
            "pred": [0, 1, None],
            "score": [0.25, 1.0, 0.5],
            "chars": [7, 8, 9],
            "unrelated": [b"\x00", b"", b"x"],
        }
    )
    (tmp_path / "mine").mkdir()
    pq.write_table(table, tmp_path / "mine" / "part.parquet")
    truth = pa.table({"id": [2], "ts": [NOW.timestamp() * 1000], "y": [1]})
    (tmp_path / "truth").mkdir()
    pq.write_table(truth, tmp_path / "truth" / "part.parquet")
    answers, reading = read(
        tmp_path,
        answers=str(tmp_path / "mine"),
        labels=str(tmp_path / "truth"),
        columns={"request": "id", "at": "when", "label": "pred", "probability": "score", "length": "chars"},
        label_columns={"request": "id", "at": "ts", "label": "y"},
    )
    assert not reading.damaged
    assert sorted((one.label or "", one.length, one.probability, one.right_label) for one in answers) == [
        ("", 9, 0.5, None), ("0", 7, 0.25, None), ("1", 8, 1.0, "1")
    ]  # fmt: skip


def test_a_table_without_the_columns_is_damage_of_every_row(tmp_path: Path) -> None:
    (tmp_path / "answers").mkdir()
    pq.write_table(pa.table({"x": [1, 2]}), tmp_path / "answers" / "a.parquet")
    answers, reading = read(tmp_path)
    assert not answers
    assert {reason: one.count for reason, one in reading.damaged.items()} == {"no time (at)": 2}


def test_our_own_records_are_the_same_as_lines_and_as_a_table(tmp_path: Path) -> None:
    records = [answer("a", measures={"length": 5, "tokens": 3, "unknown": 1}), answer("b", input="four"), answer("c")]
    write(tmp_path / "lines" / "answers" / "1.jsonl", records)
    (tmp_path / "table" / "answers").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "table" / "answers" / "1.parquet")
    assert read(tmp_path / "lines") == read(tmp_path / "table")
    assert sorted(one.length or 0 for one in read(tmp_path / "table")[0]) == [0, 4, 5]


def test_files_that_were_written_before_the_window_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "answers" / "1.jsonl", [answer("a")])
    later = ASKED._replace(now=ASKED.now + 1.0)
    assert read(tmp_path, later)[1].older_files == 0
    monkeypatch.setattr(files_module.time, "time", lambda: NOW.timestamp() + 9 * 86_400)
    assert read(tmp_path, later)[1].older_files == 1


def test_a_place_that_is_not_there_has_no_files_and_one_that_is_a_file_is_refused(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing")[1] == Reading()
    (tmp_path / "answers").write_text("x")
    with pytest.raises(StorageError, match="is a file; a log's place is the folder"):
        read(tmp_path)


def test_a_bucket_s_log_is_read_as_a_folder_s(tmp_path: Path, s3_endpoint: str, bucket: Any) -> None:
    records = [answer("a"), answer("b")]
    write(tmp_path / "answers" / "1.jsonl", records)
    write(tmp_path / "labels" / "1.jsonl", [late("a", label="bug")])
    for path in tmp_path.rglob("*.jsonl"):
        bucket.upload_file(str(path), f"log/{path.relative_to(tmp_path)}")
    assert read(f"s3://{bucket.name}/log", endpoint_url=s3_endpoint) == read(tmp_path)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86_400.0),
        ("1970-01-02T00:00:00", 86_400.0),
        ("1970-01-02T02:00:00+02:00", 86_400.0),
        (86_400, 86_400.0),
        (1.7e12, 1.7e9),
    ],
)
def test_a_time_is_read_as_it_is_written(said: object, seconds: float) -> None:
    assert moment(said) == seconds


def test_a_column_for_no_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="reqest: no such field; there are request, at"):
        AnswerLog(place="x", columns={"reqest": "id"})


def test_a_feedback_log_is_read_where_it_lies(tmp_path: Path) -> None:
    """Answers, thumbs and corrections in one place, as the source `feedback` reads them; each line counts once."""
    at = [(NOW - timedelta(seconds=seconds)).isoformat() for seconds in (90, 60, 30)]
    lines = [
        {"request_id": "r1", "prompt": "Draw a histogram.", "answer": "df.hist()", "time": at[0]},
        {"request_id": "r1", "thumb": "up", "time": at[1]},
        {"request_id": "r1", "thumb": -1, "time": at[2]},
        {"request_id": "r2", "prompt": [{"role": "user", "content": "Hello?"}], "thumb": "good", "time": at[0]},
        {"request_id": "r2", "correction": "Hello!", "time": at[1]},
        {"request_id": "r3", "prompt": "Join two frames.", "thumb": "perhaps", "time": at[0]},
        {"request_id": "r1", "_deleted": True, "time": at[2]},
        {"request_id": "r4", "prompt": "Sort it."},
        "{broken",
    ]
    write(tmp_path / "log" / "1.jsonl", lines)
    place = str(tmp_path / "log")
    columns = {"request": "request_id", "at": "time"}
    given = {
        "answers": place,
        "labels": f"{place}/",
        "columns": {**columns, "input": "prompt"},
        "label_columns": columns,
    }
    answers, reading = read(place, **given)
    assert Counter((one.length, one.thumb) for one in answers) == Counter([(17, False), (None, True), (16, None)])
    assert (reading.answers, reading.thumbs, reading.labels_replaced, reading.left_out) == (3, 2, 1, {})
    assert {reason.partition(":")[0]: one.count for reason, one in reading.damaged.items()} == {
        "a line that is no JSON": 1,
        "no time (at)": 1,
        "thumb": 1,
    }


def test_in_one_place_a_right_label_has_a_column_of_its_own(tmp_path: Path) -> None:
    lines = [
        {"request": "a", "at": NOW.isoformat(), "label": "bug"},
        {"request": "a", "at": NOW.isoformat(), "truth": "sales"},
    ]
    write(tmp_path / "1.jsonl", lines)
    one = {"answers": str(tmp_path), "labels": str(tmp_path), "columns": {"request": "request"}}
    assert [(answer.label, answer.right_label) for answer in read(tmp_path, **one)[0]] == [("bug", None)]
    named = read(tmp_path, **one, label_columns={"label": "truth"})[0]
    assert [(answer.label, answer.right_label) for answer in named] == [("bug", "sales")]
