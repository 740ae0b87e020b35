"""The rows of recipes/self_training.yaml, from a few rows with known sections."""

import json
from pathlib import Path

import pytest

from ftlib.errors import DataError
from ftlib.testing import write_jsonl
from recipes.weak_sections import build, guess, main

ROWS = [
    {"package": "libclass-csv-perl", "text": "a server of rows", "section": "perl"},
    {"package": "python3-proxy", "text": "a module", "section": "python"},
    {"package": "zlib1g-dev", "text": "a tool", "section": "libdevel"},
    {"package": "fonts-noto", "text": "letters", "section": "fonts"},
]


def test_rules_read_the_name_first_and_then_the_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [guess(row["package"], row["text"]) for row in ROWS] == ["perl", "python", "utils", None]
    write_jsonl(tmp_path / "rows" / "plain.jsonl", [{k: v for k, v in row.items() if k != "section"} for row in ROWS])
    write_jsonl(tmp_path / "rows" / "sections.jsonl", ROWS)
    assert build(tmp_path / "rows", tmp_path / "out") == {"weak": 3, "of": 4, "rightly of 100": 67}
    weak = [json.loads(line) for line in (tmp_path / "out" / "weak.jsonl").read_text().splitlines()]
    assert [row["section"] for row in weak] == ["perl", "python", "utils"]
    assert (tmp_path / "out" / "rules.txt").read_text().startswith("of 4 rows with sections the rules name 3, and 2 ")
    assert main([str(tmp_path / "rows"), str(tmp_path / "out")]) == 0
    assert "is there already" in capsys.readouterr().out


def test_rows_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"plain\.jsonl is not there; make it: python -m recipes\.debian_sections"):
        build(tmp_path / "rows", tmp_path / "out")
