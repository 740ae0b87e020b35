"""A feedback log against a plain reading of it: which rows it gives, what late lines change, what is wrong."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.data.rows import BadRow, Passed, Row
from ftlib.data.sources.feedback import Feedback
from ftlib.data.splitting import Keyed, split_rows
from ftlib.errors import DataError, RecipeError
from ftlib.recipe.file import load_recipe

RECIPE = Path(__file__).parents[4] / "recipes" / "feedback.yaml"
Line = dict[str, Any]


def read(path: Path, gives: str, **fields: Any) -> tuple[list[Row], list[BadRow], Counter[str]]:
    """Return the rows by request, the bad ones, and how many lines were passed for each reason."""
    source = Feedback.model_validate({"path": str(path), "gives": gives} | fields)
    items = list(source.read(source.pin(), 10_000))
    rows = sorted((one for one in items if isinstance(one, Row)), key=lambda row: str(row.values["request_id"]))
    passed = Counter(one.reason for one in items if isinstance(one, Passed))
    return rows, [one for one in items if isinstance(one, BadRow)], passed


def log(path: Path, lines: Sequence[Line]) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def line(number: int, prompt: str = "q", time: int = 1, **values: Any) -> Line:
    return {"request_id": number, "prompt": prompt, "answer": f"a{number}", "time": time, **values}


def test_late_lines_tell_more_of_a_request_and_the_latest_counts(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log(folder / "b.jsonl", [line(1, language="en"), line(2, thumb=True), line(3)])
    late = log(folder / "a.jsonl", [{"request_id": 1, "correction": "old", "time": 5}, {"request_id": 3, "time": 9}])
    later = log(folder / "c.jsonl", [{"request_id": "1", "correction": "new", "time": 6}])
    rows, bad, passed = read(folder, "corrections")
    assert [row.values for row in rows] == [
        {"request_id": "1", "prompt": "q", "correction": "new", "language": "en", "time": 6}
    ]
    assert (rows[0].uri, rows[0].line) == (str(later), 1)  # so a retraining takes it for a fresh row
    assert (bad, passed) == ([], {"joined": 3, "no_correction": 2})
    later.unlink()
    (again,), _, _ = read(folder, "corrections")
    assert again.values["correction"] == "old"
    assert again.uri == str(late)


def test_a_thumb_is_a_truth_value_however_it_is_written(tmp_path: Path) -> None:
    up, down = [True, 1, 1.0, "Up", "yes", "\U0001f44d", "+1"], [False, 0, -1, "down", "NO", "\U0001f44e"]
    lines = [line(i, thumb=thumb, secret="x") for i, thumb in enumerate([*up, *down, None, " "], 10)]
    path = log(tmp_path / "log.jsonl", [*lines, line(40, thumb="perhaps"), line(41, thumb=5)])
    rows, bad, passed = read(path, "thumbs", drop_columns=["secret"])
    assert [row.values["thumb"] for row in rows] == [True] * len(up) + [False] * len(down)
    assert rows[0].values == {"request_id": 10, "prompt": "q", "answer": "a10", "thumb": True, "time": 1}
    assert [(one.reason, one.line, one.column) for one in bad] == [
        ("odd_thumb", 16, "thumb"),
        ("odd_thumb", 17, "thumb"),
    ]
    assert passed == {"no_thumb": 2}
    assert len(read(log(tmp_path / "up.jsonl", lines[:2]), "thumbs")[0]) == 2  # whether that teaches is asked later


def test_pairs_are_of_corrections_and_of_thumbs_that_differ(tmp_path: Path) -> None:
    lines = [
        line(1, "corrected", correction="better", thumb=False, language="en"),
        line(2, "corrected", correction="a2"),
        *(line(number, "p", thumb=number < 12, time=number, language="en") for number in (10, 11, 12, 13, 14)),
        line(20, "alone", thumb=True),
        line(21, "both", thumb=True, answer="same"),
        line(22, "both", thumb=False, answer="same"),
        line(30, "copies", thumb=True, answer="good"),
        line(31, "copies", thumb=True, answer="good", time=2),
        line(32, "copies", thumb=False, answer="poor"),
        line(40),
    ]
    rows, _, passed = read(log(tmp_path / "log.jsonl", lines), "pairs")
    pairs = {row.values["request_id"]: (row.values["chosen"], row.values["rejected"]) for row in rows}
    assert pairs == {
        1: ("better", "a1"),
        "10>12": ("a10", "a12"),
        "11>13": ("a11", "a13"),
        "10>14": ("a10", "a14"),
        "30>32": ("good", "poor"),
    }
    assert passed == {
        "same_answer": 1,
        "joined": 4,  # two answers that other rows hold, a copy, and the one that it is paired with
        "no_counterpart": 1,
        "contradictory_thumbs": 2,
        "no_feedback": 1,
    }
    by_id = {row.values["request_id"]: row for row in rows}
    assert by_id["10>14"].values["time"] == 14
    assert by_id["10>14"].line == 7  # the later of the two: a pair with a new answer is a fresh row
    assert by_id["10>14"].values["language"] == "en"


def test_who_asks_to_be_forgotten_is(tmp_path: Path) -> None:
    lines = [line(1, correction="x", time=2), line(2, correction="x"), line(3, correction="x", time=3)]
    gone = [{"request_id": 1, "_deleted": True, "time": 2}, {"request_id": 3, "_deleted": True, "time": 1}]
    rows, _, passed = read(log(tmp_path / "log.jsonl", [*gone, *lines]), "corrections")
    assert [row.values["request_id"] for row in rows] == [2, 3]
    assert passed == {"tombstone": 2, "deleted": 1}


def test_what_serve_logs_is_a_log_of_feedback(tmp_path: Path) -> None:
    """Its answers are objects, its labels lie beside them, and what the shadow said was seen by nobody."""
    answered: Any = {"at": "2026-11-28T09:00:00Z", "name": "writer", "version": 1}
    records = [LiveAnswer(request=f"r{i}", input="Say it.", answer={"text": f"said {i}"}, **answered) for i in range(2)]
    shadow = LiveAnswer(
        request="r0", input="Say it.", answer={"text": "unseen"}, traffic="shadow", **{**answered, "version": 2}
    )
    said = [
        LateLabel(request="r0", at="2026-11-28T10:00:00Z", thumb=True),
        LateLabel(request="r1", at="2026-11-28T10:00:00Z", thumb=False, correction="say 1"),
    ]
    for folder, written in (("answers", [*records, shadow]), ("labels", said)):
        log(tmp_path / folder / "1.jsonl", [one.model_dump(mode="json") for one in written])
    source = {"path": str(tmp_path), "request": "request", "prompt": "input", "time": "at"}
    found: dict[str, list[Any]] = {}
    for gives in ("thumbs", "corrections", "pairs"):
        served = Feedback.model_validate({**source, "gives": gives})
        items = [*served.read(served.pin(), 10_000)]
        found[gives] = [one.values for one in items if isinstance(one, Row)]
        assert Counter(one.reason for one in items if isinstance(one, Passed))["shadow"] == 1
    assert {(row["answer"], row["thumb"]) for row in found["thumbs"]} == {("said 0", True), ("said 1", False)}
    assert [row["correction"] for row in found["corrections"]] == ["say 1"]
    assert [(row["chosen"], row["rejected"]) for row in found["pairs"]] == [("say 1", "said 1")]


def test_prompts_of_chats_are_turns_however_they_are_written(tmp_path: Path) -> None:
    """Answers to one chat are found by it: turns, the same in JSON, other words for roles, or the user's one text."""
    user = {"role": "user", "content": "Say it."}
    lines = [
        line(1, thumb=True, prompt=[user]),
        line(2, thumb=False, prompt=json.dumps([user])),
        line(3, thumb=False, prompt=[{"from": "human", "value": "Say it.", "name": None}]),
        line(4, thumb=False, prompt="Say it.", correction="it"),
        line(
            5,
            thumb=True,
            prompt=[{"role": "user", "content": "Say."}],
            correction={"role": "assistant", "content": "x"},
        ),
        line(6, thumb=True, prompt=[{"role": "nobody"}], correction="x"),
    ]
    path = log(tmp_path / "log.jsonl", lines)
    pairs, _, _ = read(path, "pairs", layout="chats")
    assert {row.values["request_id"] for row in pairs} == {"1>2", "1>3", 4, 5, 6}
    assert all(row.values["prompt"] == [user] for row in pairs[:3] if row.values["request_id"] != 5)
    corrected = {
        row.values["request_id"]: row.values["messages"] for row in read(path, "corrections", layout="chats")[0]
    }
    assert corrected == {
        4: [user, {"role": "assistant", "content": "it"}],
        5: [{"role": "user", "content": "Say."}, {"role": "assistant", "content": "x"}],
        6: [{"role": "nobody"}, {"role": "assistant", "content": "x"}],  # the format says what is wrong with it
    }


@pytest.mark.parametrize("prompt", [[{"role": "user", "content": "q"}], '[{"role": "user", "content": "q"}]'])
def test_a_chat_is_not_taken_for_a_text(tmp_path: Path, prompt: Any) -> None:
    path = log(tmp_path / "log.jsonl", [line(1, thumb=True), line(2, thumb=True) | {"prompt": prompt}])
    with pytest.raises(
        DataError, match=r"log.jsonl line 2: 'prompt' holds the turns of a chat.*set source.layout: chats"
    ):
        read(path, "thumbs")
    assert len(read(log(path, [line(1, '["a list"] of words', thumb=True)]), "thumbs")[0]) == 1


def test_parquet_says_what_jsonl_says(tmp_path: Path) -> None:
    lines = [line(i, f"p{i // 2}", thumb=i % 2 == 0, time=i) for i in range(6)]
    parquet.write_table(pa.Table.from_pylist(lines), tmp_path / "log.parquet")
    for gives in ("thumbs", "pairs"):
        of_table, _, _ = read(tmp_path / "log.parquet", gives)
        of_lines, _, _ = read(log(tmp_path / "log.jsonl", lines), gives)
        assert [row.values for row in of_table] == [row.values for row in of_lines]


maybe = st.none() | st.sampled_from("xyz")
events = st.lists(
    st.fixed_dictionaries(
        {"request_id": st.integers(0, 4), "time": st.integers(0, 5)},
        optional={"prompt": maybe, "answer": maybe, "correction": maybe, "thumb": st.none() | st.booleans()},
    ),
    max_size=25,
)


@given(events, st.sampled_from(["corrections", "thumbs", "pairs"]))
@settings(max_examples=60)
def test_every_line_is_counted_and_the_order_of_files_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[Line], gives: str
) -> None:
    every = {"request_id": 99, "prompt": "r", "answer": "s", "correction": "t", "thumb": True, "time": 0}
    other = {**every, "request_id": 98, "answer": "v", "correction": None, "thumb": False}
    third = {**other, "request_id": 97, "answer": "w", "thumb": True}
    events = [
        {**event, "time": 10 * event["time"] + place} for place, event in enumerate([*lines, every, other, third])
    ]
    folder = tmp_path_factory.mktemp("log")
    log(folder / "one" / "a.jsonl", events)
    log(folder / "two" / "b.jsonl", events[1::2])
    log(folder / "two" / "c.jsonl", events[::2])
    rows, bad, passed = read(folder / "one", gives)
    assert len(rows) + passed.total() == len(events)
    assert not bad
    assert [row.values for row in read(folder / "two", gives)[0]] == [row.values for row in rows]
    merged: dict[int, Line] = {}
    for event in sorted(events, key=lambda event: event["time"]):
        known = {name: value for name, value in event.items() if value is not None}
        merged[event["request_id"]] = {**merged.get(event["request_id"], {}), **known}
    if gives == "corrections":
        expected = {(m["prompt"], m["correction"]) for m in merged.values() if "prompt" in m and "correction" in m}
        assert {(row.values["prompt"], row.values["correction"]) for row in rows} == expected
    elif gives == "thumbs":
        expected = {
            (m["prompt"], m["answer"], m["thumb"]) for m in merged.values() if {"prompt", "answer", "thumb"} <= {*m}
        }
        assert {(row.values["prompt"], row.values["answer"], row.values["thumb"]) for row in rows} == expected
    else:
        assert all(row.values["chosen"] != row.values["rejected"] for row in rows)


@pytest.mark.parametrize(
    ("lines", "gives", "fields", "says"),
    [
        ([line(1), line(2)], "thumbs", {}, "no column 'thumb' in the rows; the columns are answer, prompt, request_id"),
        ([line(1), line(2)], "corrections", {"correction": "fix"}, "no column 'fix' .*; name it as source.correction"),
        ([line(1, thumb=None)], "thumbs", {}, "no request gives thumbs: 1 no_thumb; gather more"),
        ([line(1, thumb=True), line(2, thumb=True)], "pairs", {}, "2 no_counterpart; all 2 thumbs are up; gather"),
        ([line(1, time=1, thumb=True), line(2, time="2026-01-01", thumb=False)], "thumbs", {}, "1 and '2026-01-01'"),
    ],
)  # fmt: skip
def test_a_log_that_teaches_nothing_is_one_line(
    tmp_path: Path, lines: list[Line], gives: str, fields: dict[str, str], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        read(log(tmp_path / "log.jsonl", lines), gives, **fields)


def test_broken_lines_are_bad_rows_and_an_empty_log_has_none(tmp_path: Path) -> None:
    path = log(tmp_path / "log.jsonl", [line(1, correction="x"), {"prompt": "no id"}, line(2, time="soon")])
    with path.open("a") as stream:
        stream.write("{broken\n")
    rows, bad, _ = read(path, "corrections")
    assert len(rows) == 1
    assert [one.reason for one in bad] == ["missing_key", "odd_updated", "broken_json"]
    assert read(log(tmp_path / "empty.jsonl", []), "pairs") == ([], [], Counter())


def test_columns_are_named_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column 'prompt' is named for two things"):
        Feedback(path="log/", gives="thumbs", answer="prompt")
    with pytest.raises(ValueError, match="'time' is read"):
        Feedback(path="log/", gives="thumbs", drop_columns=("time",))
    (tmp_path / "log.csv").write_text("a\n")
    with pytest.raises(DataError, match=r"suffix '.csv', allowed are .jsonl, .parquet"):
        Feedback(path=str(tmp_path / "log.csv"), gives="thumbs").list()


def test_a_log_in_a_bucket_says_the_same(tmp_path: Path, bucket: Any, s3_endpoint: str) -> None:
    path = log(tmp_path / "log.jsonl", [line(i, thumb=i % 2 == 0) for i in range(4)])
    bucket.put_object(Key="log/2026.jsonl", Body=path.read_bytes())
    source = Feedback(path=f"s3://{bucket.name}/log/", gives="thumbs", endpoint_url=s3_endpoint)
    of_bucket = [row for row in source.read(source.pin(), 10_000) if isinstance(row, Row)]
    of_file, _, _ = read(path, "thumbs")
    assert [row.values["answer"] for row in of_file] == sorted(str(row.values["answer"]) for row in of_bucket)
    assert {row.uri for row in of_bucket} == {f"s3://{bucket.name}/log/2026.jsonl"}


def test_what_is_held_out_of_one_kind_of_rows_no_other_learns(tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    prompts = [f"p{i // 5}" for i in range(400)]
    lines = [line(i, prompts[i], thumb=i % 3 > 0) | ({"correction": f"c{i}"} if i % 7 == 0 else {}) for i in range(400)]
    path, said = log(tmp_path / "log.jsonl", lines), dict[str, set[str]]()
    for gives in ("corrections", "thumbs", "pairs"):
        rows = read(path, gives)[0]
        keyed = [Keyed(str(i), b"", None, row.values["prompt"], b"") for i, row in enumerate(rows)]
        for row, split in zip(rows, split_rows(recipe.datasets[gives].split, keyed), strict=True):
            ids = str(row.values["request_id"]).split(">")
            said.setdefault(str(split), set()).update(ids)
    assert {*said} == {"train", "validation", "test"}
    assert not said["test"] & (said["train"] | said["validation"])
    assert not said["validation"] & said["train"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("datasets.pairs.split={test: 0.15}", r"pairs\.split: by 'random', .* give it `by: group, column: prompt`"),
        ("datasets.thumbs.split.test=0.3", r"thumbs: split and key are not those of 'corrections', .* give both the s"),
        (
            "datasets.pairs.format.layout=texts",
            "pairs.format: 'preference' reads texts, and the source's prompts are turns",
        ),
        ("datasets.thumbs.key=null", r"thumbs: split and key are not those of 'corrections'"),
    ],
)
def test_rows_of_one_log_are_split_alike_and_pairs_by_their_prompts(override: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        load_recipe(RECIPE, [override])
