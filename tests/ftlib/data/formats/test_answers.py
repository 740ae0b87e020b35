"""Pairs and thumbs: what is dropped, and that prompts and answers are the tokens that a stock tokenizer makes."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest
from pydantic import ValidationError

from ftlib.data.formats.chat import Chat, chat_example
from ftlib.data.formats.preference import Preference
from ftlib.data.formats.thumb import Thumb
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.testing import tiny_chat_tokenizer, tiny_lm_tokenizer
from tests.ftlib.data.formats.test_chat import TOOLS

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


def test_tools_and_their_calls_are_written_as_in_a_chat_that_is_learnt() -> None:
    """Each answer's tokens are those that format `chat` makes of the same turns, tools included."""
    tokenizer = tiny_chat_tokenizer(TOOLS)
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
    calls = [{"type": "function", "id": "c1", "function": {"name": "track", "arguments": '{"parcel": 7}'}}]
    asks, says = {"role": "assistant", "content": None, "tool_calls": calls}, answer("in the depot")
    earlier = [*ASKED, asks, {"role": "tool", "content": '{"place": "depot"}', "tool_call_id": "c1"}]
    pair = Preference(prompt="p", chosen="c", rejected="r", layout="chats", tools="t", max_tokens=500)
    thumb = Thumb(prompt="p", answer="c", label="l", layout="chats", tools="t", max_tokens=500)
    chat = Chat(messages="m", tools="t", max_tokens=500)

    def pieces(format: Any, values: dict[str, Any]) -> Any:
        example = format.example(values)
        assert isinstance(example, Example), example
        (encoded,) = format.encode([example], Processor.of(tokenizer))
        assert encoded.pieces, encoded.dropped
        return encoded.pieces[0]

    for tools in ([tool], json.dumps([tool]), None):
        rows = ((ASKED, asks, says), (ASKED, [*ASKED, says], asks), (earlier, says, answer("no")))
        for prompt, chosen, rejected in rows:
            turns = {"p": prompt, "c": chosen, "r": rejected, "t": tools, "l": True}
            one, judged = pieces(pair, turns), pieces(thumb, turns)
            first, start, second, end = one.target["places"]
            for ids, place, given in ((one.ids[:start], first, chosen), (one.ids[start:end], second - start, rejected)):
                last = given[-1] if isinstance(given, list) else given
                whole = pieces(chat, {"m": [*prompt, last], "t": tools})
                assert whole.ids[: len(ids)] == ids
                assert whole.target["places"][-2:] == [place, len(ids)]
            assert (judged.ids, judged.target["places"]) == (one.ids[:start], [first, start])
    said = tokenizer.decode(pieces(pair, {"p": ASKED, "c": asks, "r": "no", "t": [tool]}).ids).replace(" ", "")
    assert '"name":"track","parameters"' in said
    assert 'calltrack{"parcel":7}[SEP]' in said


def test_tools_that_are_none_or_have_no_place_are_said() -> None:
    pair = Preference(prompt="p", chosen="c", rejected="r", layout="chats", tools="t")
    assert pair.columns == ("p", "c", "r", "t")
    assert Thumb(prompt="p", answer="a", label="l", layout="chats", tools="t").columns == ("p", "a", "l", "t")
    assert pair.example({"p": ASKED, "c": "a", "r": "b", "t": "no tools"}) == Dropped("tools_not_a_list")
    calls = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "track", "arguments": {}}}]}
    example = pair.example({"p": ASKED, "c": calls, "r": "b"})
    assert isinstance(example, Example)
    (encoded,) = pair.encode([example], Processor.of(tiny_chat_tokenizer()))  # a template that knows no calls
    assert encoded.dropped == Dropped("turn_not_rendered", "the tool 'track' is not in what the template writes")
    with pytest.raises(
        ValidationError, match="tools are told by a chat template, got layout: texts; set layout: chats"
    ):
        Preference(prompt="p", chosen="c", rejected="r", tools="t")


def test_answers_that_are_turns_are_read_as_json_in_csv() -> None:
    pair = Preference(prompt="p", chosen="c", rejected="r", layout="chats")
    rows = ({"p": ASKED, "c": [{"role": "assistant", "content": "yes"}], "r": {"role": "assistant", "content": "no"}},)
    written = [{name: json.dumps(value) for name, value in row.items()} for row in rows]
    assert [*map(pair.example, rows)] == [*map(pair.example, written)]
    assert isinstance(pair.example(rows[0]), Example)


def test_a_text_that_looks_like_a_turn_is_a_text() -> None:
    example = CHATS.example({"p": ASKED, "c": '{"place": 7}', "r": "{"})
    assert isinstance(example, Example)
    (encoded,) = CHATS.encode([example], Processor.of(tokenizer := tiny_chat_tokenizer()))
    first, start, *_ = cast("Any", encoded.pieces[0].target)["places"]
    assert "place" in tokenizer.decode(encoded.pieces[0].ids[first:start])
