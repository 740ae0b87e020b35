"""Sources and targets as an encoder-decoder reads and writes them, against the stock tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlib.data.formats.text_to_text import TextToText
from ftlib.data.inputs import TEXT_TO_TEXT
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.errors import ModelError
from ftlib.kinds.loading import load_processor
from ftlib.testing import tiny_lm_tokenizer, tiny_text_to_text

FORMAT = TextToText(source="en", target="fr", prefix="ask : ", max_tokens=12, max_target_tokens=8)
START = 7
SEPARATOR = 3


def encoded(*rows: Example, format: TextToText = FORMAT, end: str | None = "[SEP]"):
    tokenizer = tiny_lm_tokenizer()
    tokenizer.eos_token = end
    return format.encode(rows, Processor.of(tokenizer, decoder_start=START))


def test_ids_are_the_stock_tokenizer_s_behind_the_decoder_s_start() -> None:
    (row,) = encoded(Example("the invoice", target="a refund"))
    tokenizer = tiny_lm_tokenizer()
    target = tokenizer(text_target="a refund")["input_ids"]
    (piece,) = row.pieces
    assert piece.inputs == {
        "input_ids": tokenizer("ask : the invoice")["input_ids"],
        "decoder_input_ids": [START, *target],
    }
    assert (piece.target, piece.supervised, row.truncated) == ("a refund", len(target), False)
    assert target[-1] == tokenizer.eos_token_id == SEPARATOR
    assert FORMAT.inputs(Processor.of(tokenizer)) == TEXT_TO_TEXT


def test_an_end_is_added_where_the_tokenizer_puts_another() -> None:
    (row,) = encoded(Example("a", target="bug"), end="[MASK]")
    tokenizer = tiny_lm_tokenizer()
    mask = tokenizer.convert_tokens_to_ids("[MASK]")
    assert row.pieces[0].answer_ids == [START, *tokenizer("bug")["input_ids"], mask]


def test_sources_are_cut_by_the_tokenizer_s_rule_and_targets_lose_their_end() -> None:
    long, short = "the bug again " * 9, "the bug"
    by_source, by_target, whole = encoded(
        Example(long, target=short), Example(short, target=long), Example(short, target=short)
    )
    source = by_source.pieces[0].ids
    assert (len(source), source[-1], by_source.truncated) == (12, SEPARATOR, True)
    target = by_target.pieces[0].answer_ids
    assert (len(target) - 1, by_target.pieces[0].supervised, by_target.truncated) == (8, 8, True)
    assert target[-1] != SEPARATOR  # a text does not end where it was cut
    assert whole.truncated is False


def test_a_text_that_is_asked_has_no_target_and_teaches_nothing() -> None:
    asked, taught = encoded(Example("the bug"), Example("the bug", target="the"))
    assert asked.pieces[0].answer_ids == [START]
    assert asked.pieces[0].supervised == 0
    assert asked.pieces[0].ids == taught.pieces[0].ids


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"fr": "x"}, "missing_text"),
        ({"en": 3, "fr": "x"}, "text_not_a_string"),
        ({"en": "x"}, "missing_completion"),
        ({"en": "x", "fr": " \n"}, "empty_completion"),
        ({"en": "x", "fr": ["y"]}, "completion_not_a_string"),
    ],
)
def test_a_row_without_a_source_or_a_target_is_dropped(values: dict[str, object], reason: str) -> None:
    assert FORMAT.example(values) == Dropped(reason)  # pyright: ignore[reportArgumentType]


def test_a_model_that_names_no_start_is_refused_with_what_to_write(tmp_path: Path) -> None:
    folder = tiny_text_to_text(tmp_path / "model")
    assert load_processor(folder).decoder_start == 0
    config = json.loads((folder / "config.json").read_text())
    del config["decoder_start_token_id"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json names no decoder_start_token_id.*write the id into it"):
        FORMAT.encode([Example("a", target="b")], load_processor(folder))
