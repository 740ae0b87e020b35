"""`reglage judge`: two models on the same prompts, or answers that are there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.command_line.main import main
from ftlib.testing import tiny_causal_lm, write_jsonl

SHORT = "{kind: reward, reward: {kind: length, most: 4}}"
ROWS = [{"prompt": "the invoice", "ours": "ask", "theirs": "please ask"}] * 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def judge(folder: Path, rows: list[dict[str, Any]], *words: str) -> Any:
    prompts = write_jsonl(folder / "prompts.jsonl", rows)
    return CliRunner().invoke(main, ["judge", "one", "two", str(prompts), *words])


def test_answers_that_are_there_are_compared(tmp_path: Path) -> None:
    found = judge(tmp_path, ROWS, "--answers", "ours", "theirs", "--by", SHORT, "--json")
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert (said["ours"], said["theirs"], said["wins"], said["rows"]) == ("one", "two", 3, 3)
    assert said["win_rate"]["value"] == 1.0
    assert said["cost"]["calls"] == 0
    shown = judge(tmp_path, ROWS, "--answers", "ours", "theirs", "--by", SHORT)
    assert (
        "one against two: win rate 1.000 [1.000, 1.000], 3 won, 0 tied, 0 lost of 3, sign test p 0.25" in shown.output
    )
    assert "cost: 0 calls" in shown.output


def test_two_models_write_and_a_file_names_the_judge(tmp_path: Path) -> None:
    folders = [tiny_causal_lm(tmp_path / name) for name in ("one", "two")]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "the invoice"}, {"prompt": "a card and a bug"}])
    (tmp_path / "judge.yaml").write_text(SHORT)
    words = ["judge", *map(str, folders), str(prompts), "--by", str(tmp_path / "judge.yaml")]
    found = CliRunner().invoke(main, [*words, "--max-new-tokens", "4", "--json"])
    assert found.exit_code == 0, found.output
    said = json.loads(found.stdout)
    assert (said["ties"], said["win_rate"]["value"], said["p"]) == (2, 0.5, 1.0)  # the same weights say the same


@pytest.mark.parametrize(
    ("rows", "words", "code", "message"),
    [
        (ROWS, ["--by", "{kind: oracle}"], 2, "--by: kind: Input tag 'oracle'"),
        (ROWS, ["--by", "nowhere.yaml"], 2, "'nowhere.yaml' is neither a judge in braces nor a file that holds one"),
        (ROWS, ["--by", "{kind: endpoint, url: 'https://me:hidden@h/v1', model: m}"], 2, "holds a URL with a user"),
        (ROWS, ["--by", SHORT, "--prompt", "asked"], 3, "line 1: has no text asked; it has "),
        ([{"prompt": 3}], ["--by", SHORT], 3, "line 1"),
        ([], ["--by", SHORT], 3, "has no rows"),
        (ROWS, ["--by", SHORT], 4, "'one' is no folder here"),
    ],
    ids=["kind", "file", "secret", "column", "number", "empty", "model"],
)
def test_what_cannot_be_judged_is_one_line(
    tmp_path: Path, rows: list[dict[str, Any]], words: list[str], code: int, message: str
) -> None:
    found = judge(tmp_path, rows, *words)
    assert found.exit_code == code, found.output
    assert message in " ".join(found.output.split())
    assert "hidden" not in found.output
    assert "Traceback" not in found.output
