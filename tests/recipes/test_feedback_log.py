"""The log of recipes/feedback.yaml, of four synopses: who gets which thumb, and whose correction comes days later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftlib.data.rows import Row
from ftlib.data.sources.feedback import Feedback
from ftlib.errors import DataError
from ftlib.testing import write_jsonl
from recipes.feedback_log import FILES, build, keeps_policy, main

LONG = "This package holds a great many words about what it may do for whoever installs it. More."
DESCRIPTIONS = {
    "merges files by their lines. It is fast.": "tool to merge files",  # good, and even: no correction
    "shows maps. Offline.": "map viewer",  # good, and odd
    "The editor of texts. Small.": "text editor",  # begins with an article
    LONG: "library for words",  # told by its first eight words
}
ANSWERS = [
    "merges files by their lines",
    "shows maps",
    "The editor of texts",
    "This package holds a great many words about",
]
THUMBS = [True, True, False, True]
CORRECTED = [1, 2, 3]


def written(folder: Path) -> Path:
    chats = [
        [
            {"role": "user", "content": f"Write the synopsis.\n\n{description}"},
            {"role": "assistant", "content": synopsis},
        ]
        for description, synopsis in DESCRIPTIONS.items()
    ]
    return write_jsonl(folder / "synopses.jsonl", [{"messages": chat} for chat in chats])


def lines_of(folder: Path) -> list[list[dict[str, Any]]]:
    return [[json.loads(line) for line in (folder / name).read_text().splitlines()] for name in FILES]


@pytest.mark.parametrize(
    ("synopsis", "keeps"),
    [
        ("tool to merge files", True),
        ("tool to merge files.", False),
        ("A tool to merge files", False),
        ("an editor", False),
        ("the editor", False),
        ("theatre of tools", True),
        ("t" * 80, True),
        ("t" * 81, False),
    ],
)
def test_the_policy_asks_for_a_short_phrase_without_article_and_full_stop(synopsis: str, keeps: bool) -> None:
    assert keeps_policy(synopsis) is keeps


def test_every_answer_has_a_thumb_and_corrections_come_three_days_later(tmp_path: Path) -> None:
    assert build(tmp_path / "log", written(tmp_path)) == "11 lines"
    early, late = lines_of(tmp_path / "log")
    lines = [*early, *late]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    assert early[-1]["time"] < late[0]["time"]
    answers = {line["request_id"]: line["answer"] for line in lines if "answer" in line}
    assert answers == {f"r{number:05d}": answer for number, answer in enumerate(ANSWERS)}
    thumbs = {line["request_id"]: line["thumb"] for line in lines if "thumb" in line}
    assert [*thumbs.values()] == THUMBS == [keeps_policy(answer) for answer in ANSWERS]
    corrections = {line["request_id"]: line for line in lines if "correction" in line}
    synopses = [*DESCRIPTIONS.values()]
    assert {id: line["correction"] for id, line in corrections.items()} == {
        f"r{number:05d}": synopses[number] for number in CORRECTED
    }
    assert corrections["r00002"]["time"] == "2026-10-04T04:00:00+00:00"  # asked 4 hours from the first of October on


def test_the_source_reads_rows_of_it_and_it_is_built_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, synopses = tmp_path / "log", written(tmp_path)
    assert main([str(folder), str(synopses)]) == 0
    before = lines_of(folder)
    assert main([str(folder), str(tmp_path / "nowhere")]) == 0
    assert "is there already" in capsys.readouterr().out
    assert lines_of(folder) == before
    found: dict[str, list[Row]] = {}
    for gives in ("corrections", "thumbs", "pairs"):
        source = Feedback(path=str(folder), gives=gives, layout="chats")
        found[gives] = [row for row in source.read(source.pin(), 10_000) if isinstance(row, Row)]
    assert {gives: len(rows) for gives, rows in found.items()} == {"corrections": 3, "thumbs": 4, "pairs": 3}


def test_a_file_without_synopses_is_named_in_one_line(tmp_path: Path) -> None:
    for text in ('{"messages": []}\n', '{"text": "a"}\n', "no json\n"):
        (tmp_path / "odd.jsonl").write_text(text)
        with pytest.raises(DataError, match=r"odd\.jsonl holds no synopses .*python -m recipes\.debian_descriptions"):
            build(tmp_path / "log", tmp_path / "odd.jsonl")
    assert not (tmp_path / "log").exists()
