"""Building what recipes/translation.yaml reads: pairs of two small lists of Debian's, and a T5 made for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from ftlib.errors import DataError
from recipes.debian_descriptions import build
from recipes.small_t5 import build as build_model
from recipes.small_t5 import main

ENTRY = """Package: {package}
Description-md5: {digest}
Description-{language}: {synopsis}
 What it does is told here, at the length that a description has to have to be one, and not only a line of words: it
 goes on for as long as it takes to say what nobody else says of {package}, which is a lot more than a line.
"""


def lists(folder: Path) -> list[Path]:
    """Write an English and a French list; one French entry is of an older description, one says the same."""
    english = {"one": "tool for one", "two": "tool for two", "three": "three", "four": "tool for four"}
    french = {"one": "outil pour un", "two": "outil pour deux", "three": "three", "older": "outil pour quatre"}
    files: list[Path] = []
    for language, synopses in (("en", english), ("fr", french)):
        entries = [
            ENTRY.format(package=name, digest=f"md5-{name}", language=language, synopsis=synopsis)
            for name, synopsis in synopses.items()
        ]
        files.append(folder / f"deb_main_i18n_Translation-{language}")
        files[-1].write_text("\n".join(entries), encoding="utf-8")
    return files


def test_synopses_are_paired_by_the_digest_of_what_was_translated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recipes.debian_descriptions.SYNOPSES", 3)
    assert build(tmp_path / "rows", lists(tmp_path)) == {"synopses": 3, "questions": 1, "translations": 2}
    rows = [json.loads(line) for line in (tmp_path / "rows" / "translations.jsonl").read_text().splitlines()]
    assert sorted((row["en"], row["fr"]) for row in rows) == [
        ("tool for one", "outil pour un"),
        ("tool for two", "outil pour deux"),
    ]
    assert "Translation-fr, sha256" in (tmp_path / "rows" / "sources.txt").read_text()


def test_a_t5_is_made_for_the_rows_and_every_build_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"en": f"tool for {i}", "fr": f"outil pour {i}"}) + "\n" for i in range(30)))
    for name in ("a", "b"):
        build_model(tmp_path / name, [rows])
    for file in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    tokenizer, model = (loader.from_pretrained(tmp_path / "a") for loader in (AutoTokenizer, AutoModelForSeq2SeqLM))
    ids = tokenizer("outil pour été ☃")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id == model.config.eos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == "outil pour été ☃"  # by its bytes
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.config.decoder_start_token_id
    with torch.no_grad():
        said = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids]))
    assert said.logits.shape == (1, len(ids), len(tokenizer))


def test_rows_that_are_not_there_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match="cannot be read as JSON lines"):
        build_model(tmp_path / "model", [tmp_path / "none.jsonl"])
    (tmp_path / "empty.jsonl").write_text("")
    assert main([str(tmp_path / "model"), str(tmp_path / "empty.jsonl")]) == 3
    assert capsys.readouterr().err.startswith("small_t5: no texts in")
    assert not (tmp_path / "model").exists()
