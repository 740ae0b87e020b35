"""Pairs and thumbs: what is dropped, and that prompts and answers are the tokens that a stock tokenizer makes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ftlib.data.formats.chat import chat_example
from ftlib.data.formats.preference import Preference
from ftlib.data.formats.thumb import Thumb
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.testing import tiny_chat_tokenizer, tiny_lm_tokenizer

PAIR = Preference(prompt="p", chosen="c", rejected="r", max_tokens=40)
CHATS = Preference(prompt="p", chosen="c", rejected="r", layout="chats", max_tokens=60)
THUMB = Thumb(prompt="p", answer="a", label="l", max_tokens=40)
ASKED = [{"role": "user", "content": "the bug"}]


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("format", "values", "reason"),
    [
        (PAIR, {"c": "a", "r": "b"}, "missing_text"),
        (PAIR, {"p": " ", "c": "a", "r": "b"}, "empty_text"),
        (PAIR, {"p": 3, "c": "a", "r": "b"}, "text_not_a_string"),
        (PAIR, {"p": "x", "c": "a"}, "missing_completion"),
        (PAIR, {"p": "x", "c": "a", "r": ["b"]}, "completion_not_a_string"),
        (PAIR, {"p": "x", "c": "a", "r": "  "}, "empty_completion"),
        (PAIR, {"p": "x", "c": "same ", "r": "same"}, "equal_answers"),
        (CHATS, {"c": "a", "r": "b"}, "missing_messages"),
        (CHATS, {"p": [*ASKED, answer("x")], "c": "a", "r": "b"}, "prompt_ends_with_answer"),
        (CHATS, {"p": ASKED, "c": ASKED, "r": "b"}, "no_answer"),
        (CHATS, {"p": "other", "c": [*ASKED, answer("x")], "r": "b"}, "answer_to_another_prompt"),
        (CHATS, {"p": ASKED, "c": answer("x"), "r": [*ASKED, answer("x ")]}, "equal_answers"),
        (THUMB, {"p": "x", "a": "y"}, "missing_thumb"),
        (THUMB, {"p": "x", "a": "y", "l": "maybe"}, "thumb_not_yes_or_no"),
        (THUMB, {"p": "x", "a": "y", "l": 0.5}, "thumb_not_yes_or_no"),
    ],
)
def test_a_row_that_says_no_preference_is_dropped(format: Any, values: dict[str, Any], reason: str) -> None:
    said = format.example(values)
    assert isinstance(said, Dropped)
    assert said.reason == reason


def test_both_orders_of_a_pair_are_one_text_with_two_labels() -> None:
    """So cleaning drops them as contradictory, and equal rows as copies."""
    one, other = (PAIR.example({"p": "x", "c": c, "r": r}) for c, r in (("a", "b"), ("b", "a")))
    assert isinstance(one, Example)
    assert isinstance(other, Example)
    assert one.text == other.text
    assert one.label != other.label


@pytest.mark.parametrize(
    ("written", "wanted"),
    [(True, True), (0, False), ("Yes", True), ("down", False), (1.0, True), ("👎", False), ("-1", False)],
)
def test_thumbs_are_read_as_people_write_them(written: Any, wanted: bool) -> None:
    example = THUMB.example({"p": "x", "a": "y", "l": written})
    assert isinstance(example, Example)
    assert isinstance(example.target, dict)
    assert example.target["wanted"] is wanted  # type: ignore[typeddict-item]


def test_texts_are_a_prompt_and_each_answer_with_its_end() -> None:
    tokenizer = tiny_lm_tokenizer()
    example = PAIR.example({"p": "the bug", "c": "please fix it", "r": "ask again"})
    assert isinstance(example, Example)
    (piece,) = PAIR.encode([example], Processor.of(tokenizer))[0].pieces
    target: Any = piece.target
    first, start, other, end = target["places"]
    prompt, chosen, rejected = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the bug\n", "please fix it", "ask again")
    )
    tail = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    assert piece.ids[first:start] == [*chosen, *tail]
    assert piece.ids[other:end] == [*rejected, *tail]
    assert piece.ids[first - len(prompt) : first] == prompt == piece.ids[other - len(prompt) : other]
    assert (end, piece.supervised) == (len(piece.ids), 1)


def test_chats_are_written_by_the_template_up_to_the_answer_s_end() -> None:
    tokenizer = tiny_chat_tokenizer()
    example = CHATS.example({"p": "the bug", "c": [*ASKED, answer("please fix it")], "r": answer("ask again")})
    assert isinstance(example, Example)
    (piece,) = CHATS.encode([example], Processor.of(tokenizer))[0].pieces
    target: Any = piece.target
    first, start, other, end = target["places"]
    asked = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert piece.ids[:first] == asked == piece.ids[start:other]
    whole = tokenizer.apply_chat_template([*ASKED, answer("ask again")], return_dict=True)["input_ids"]
    assert piece.ids[start:end] == whole[: end - start]
    assert piece.ids[end - 1] == target["end"]


def test_what_is_asked_is_the_prompt_alone() -> None:
    lm, chat = tiny_lm_tokenizer(), tiny_chat_tokenizer()
    (prompt,) = PAIR.encode([Example("the bug")], Processor.of(lm))[0].pieces
    example = PAIR.example({"p": "the bug", "c": "please fix it", "r": "ask again"})
    assert isinstance(example, Example)
    (whole,) = PAIR.encode([example], Processor.of(lm))[0].pieces
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    (prompt,) = CHATS.encode([chat_example(ASKED, None)], Processor.of(chat))[0].pieces
    assert prompt.ids == chat.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=True)["input_ids"]


def test_no_answer_is_cut() -> None:
    processor = Processor.of(tiny_lm_tokenizer())
    for prompt, chosen, reason in (
        ("the bug " * 40, "fix it", "prompt_too_long"),
        ("the bug", "fix it " * 40, "answer_too_long"),
    ):
        example = PAIR.example({"p": prompt, "c": chosen, "r": "no"})
        assert isinstance(example, Example)
        (said,) = PAIR.encode([example], processor)
        assert not said.pieces
        assert said.dropped is not None
        assert said.dropped.reason == reason
        assert "max_tokens: 40" in said.dropped.detail


def test_a_layout_has_no_fields_of_the_other() -> None:
    with pytest.raises(ValidationError, match="set layout: chats, or remove it"):
        Preference(prompt="p", chosen="c", rejected="r", template="chatml")
    with pytest.raises(ValidationError, match="the template puts chats together; remove them"):
        Thumb(prompt="p", answer="a", label="l", layout="chats", prefix="Answer: ")
