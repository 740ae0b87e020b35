"""Prompt and completion as tokens: the border, the end, and what gives way when a row is too long."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.data.formats.text import text_piece
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.testing import tiny_lm_tokenizer, tiny_prompts

FORMAT = PromptCompletion(prompt="q", completion="a", max_tokens=24, slices=("region",))


class Words:
    """A tokenizer of letters; what stands before and after every text is not what ends one."""

    def __init__(self, start: list[int], end: list[int], eos: int | None) -> None:
        self.start, self.end, self.eos_token_id = start, end, eos

    def __call__(self, text: Any, *, add_special_tokens: bool = True, **options: Any) -> Any:
        if isinstance(text, str):
            return {"input_ids": self._ids(text, add_special_tokens)}
        return {"input_ids": [self._ids(one, add_special_tokens) for one in text]}

    def _ids(self, text: str, special: bool) -> list[int]:
        ids = [100 + ord(letter) for letter in text]
        return [*self.start, *ids, *self.end] if special else ids


def letters(text: str) -> list[int]:
    return [100 + ord(letter) for letter in text]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"a": "x"}, "missing_text"),
        ({"q": 5, "a": "x"}, "text_not_a_string"),
        ({"q": "x"}, "missing_completion"),
        ({"q": "x", "a": 5}, "completion_not_a_string"),
        ({"q": "x", "a": " \n\x00"}, "empty_completion"),
    ],
)
def test_every_dropped_row_has_its_reason(values: dict[str, Any], reason: str) -> None:
    assert FORMAT.example(values) == Dropped(reason)


def test_rows_are_the_same_by_their_prompt_and_taught_the_cleaned_completion() -> None:
    found = FORMAT.example({"q": "why?", "a": "\n so\x00 \n  that \n", "region": "eu"})
    assert found == Example("why?", slices=("eu",), target=" so\n  that")


def test_a_prompt_alone_is_asked_whole_and_dropped_where_it_leaves_no_room() -> None:
    alone = PromptCompletion(prompt="q", completion=None, max_tokens=8)
    tokenizer = Words([1], [2], 2)
    short, long = (alone.example({"q": text}) for text in ("why?", "why indeed?"))
    assert isinstance(short, Example)
    assert isinstance(long, Example)
    users = Example("why indeed?")
    found = alone.encode([short, long, users], Processor.of(tokenizer))
    assert found[0].pieces == [text_piece([1, *letters("why?\n")], "", 0)]
    assert found[1].dropped == Dropped("prompt_too_long", "its prompt has 13 tokens, max_tokens: 8")
    assert found[2].pieces == [text_piece([1, *letters("why indeed?\n")], "", 0)]


def test_a_row_is_prompt_separator_completion_and_end() -> None:
    tokenizer = tiny_lm_tokenizer()
    (encoded,) = FORMAT.encode([Example("the invoice", target="please refund")], Processor.of(tokenizer))
    (piece,) = encoded.pieces
    assert tokenizer.convert_ids_to_tokens(piece.ids) == ["[CLS]", "the", "invoice", "please", "refund", "[SEP]"]
    assert (piece.target, piece.supervised, encoded.truncated) == ("please refund", 3, False)


@pytest.mark.parametrize(
    ("separator", "prompt", "completion"),
    [("\n", "q\n", "a"), (" ", "q", " a"), (" => ", "q =>", " a"), ("", "q", "a")],
)
def test_blanks_of_the_separator_go_with_the_word_after_them(separator: str, prompt: str, completion: str) -> None:
    format = PromptCompletion(prompt="q", completion="a", separator=separator)
    (encoded,) = format.encode([Example("q", target="a")], Processor.of(Words([1], [2], eos=2)))
    assert encoded.pieces == [text_piece([1, *letters(prompt + completion), 2], "a", len(completion) + 1)]


@pytest.mark.parametrize("eos", [2, None])
@pytest.mark.parametrize("start", [[], [1]])
@given(prompt=st.text("abc", max_size=20), completion=st.text("xyz", min_size=1, max_size=20), most=st.integers(4, 30))
@settings(max_examples=60)
def test_the_prompt_gives_way_and_never_the_completion(
    start: list[int], eos: int | None, prompt: str, completion: str, most: int
) -> None:
    format = PromptCompletion(prompt="q", completion="a", separator="", max_tokens=most)
    (encoded,) = format.encode([Example(prompt, target=completion)], Processor.of(Words(start, [2], eos)))
    (piece,) = encoded.pieces
    answer = letters(completion) + ([] if eos is None else [eos])
    whole = start + letters(prompt) + answer
    assert len(piece.ids) <= most
    assert encoded.truncated == (len(whole) > most)
    assert piece.ids[: len(start)] == start
    kept = piece.ids[len(piece.ids) - piece.supervised :]
    context = piece.ids[len(start) : len(piece.ids) - piece.supervised]
    if not start and not prompt:  # then the completion's first token has nothing to be predicted from
        context, answer = [], answer[1:]
    assert answer[: len(kept)] == kept
    assert letters(prompt)[len(prompt) - len(context) :] == context
    if len(start) + 1 + len(answer) <= most:
        assert kept == answer
    else:  # alone it is too long: it loses its end, and with it the end token
        assert len(piece.ids) == most


def test_a_prompt_has_the_same_tokens_whatever_follows_it() -> None:
    tokenizer = tiny_lm_tokenizer()
    rows = [Example(row["prompt"], target=row["completion"] * (1 + i)) for i, row in enumerate(tiny_prompts(4))]
    format = PromptCompletion(prompt="q", completion="a", max_tokens=128)
    for row, encoded in zip(rows, format.encode(rows, Processor.of(tokenizer)), strict=True):
        (piece,) = encoded.pieces
        alone = tokenizer(row.text, add_special_tokens=False)["input_ids"]
        assert piece.ids[: len(piece.ids) - piece.supervised] == [tokenizer.bos_token_id, *alone]


def test_a_prefix_stands_before_every_prompt_and_survives_the_cut() -> None:
    tokenizer = tiny_lm_tokenizer()
    format = PromptCompletion(prompt="q", completion="a", prefix="ask : ", max_tokens=16)
    short, long = Example("the bug", target="the"), Example("the bug again " * 9, target="the")
    whole, cut = (one.pieces[0].ids for one in format.encode([short, long], Processor.of(tokenizer)))
    asked = tokenizer("ask : the bug", add_special_tokens=False)["input_ids"]
    assert whole[1 : 1 + len(asked)] == asked
    prefix = tokenizer("ask :", add_special_tokens=False)["input_ids"]
    assert (len(cut), cut[1 : 1 + len(prefix)]) == (16, prefix)
    assert format.least_tokens(tokenizer) == len(prefix) + 3


def test_an_example_without_a_completion_is_the_prompt() -> None:
    tokenizer = tiny_lm_tokenizer()
    format = PromptCompletion(prompt="q", completion="a")
    asked, taught = format.encode([Example("the bug"), Example("the bug", target="the")], Processor.of(tokenizer))
    (prompt,), (row,) = asked.pieces, taught.pieces
    assert prompt.supervised == 0
    assert prompt.ids == row.ids[: len(row.ids) - row.supervised]
