"""Questions become windows whose spans spell the answer, cut as stock transformers cuts them."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftlib.data.formats.question_answer import QuestionAnswer
from ftlib.data.processor import Processor
from ftlib.data.row_targets import Span
from ftlib.data.rows import Dropped, Encoded, Example, Piece
from ftlib.errors import ModelError
from ftlib.testing import tiny_tokenizer

FORMAT = QuestionAnswer(question="question", context="context", answers="answers", max_tokens=16, stride=4)
TOKENIZER = tiny_tokenizer()
CONTEXT = "The invoice  is\nhere, in New York."


def example(answers: Any, context: str = CONTEXT, question: str = "where is it?") -> Example | Dropped:
    return FORMAT.example({"question": question, "context": context, "answers": answers})


@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["New York", "York"], "answer_start": [25, 29]},
        [{"text": "New York", "answer_start": 25}, {"text": "York", "answer_start": 29}],
        [{"text": "New York", "start": 25.0}, {"text": "York", "start": 29}],
    ],
)
def test_answers_in_any_of_squads_spellings(answers: Any) -> None:
    found = example(answers)
    assert isinstance(found, Example)
    assert found.parts == ("where is it?", CONTEXT, "New York", "York")
    assert found.target == 25
    assert example({"text": "York", "answer_start": 29}) == example([{"text": "York", "answer_start": 29}])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"question": None}, "missing_question"),
        ({"context": None}, "missing_context"),
        ({"question": 3}, "text_not_a_string"),
        ({"question": " "}, "empty_text"),
        ({"context": "\n"}, "empty_text"),
        ({"answers": None}, "missing_answer"),
        ({"answers": []}, "unanswerable"),
        ({"answers": {"text": [], "answer_start": []}}, "unanswerable"),
        ({"answers": {"text": ["York"], "answer_start": []}}, "odd_answer"),
        ({"answers": "York"}, "odd_answer"),
        ({"answers": {"text": "York"}}, "odd_answer"),
        ({"answers": {"text": "York", "answer_start": True}}, "odd_answer"),
        ({"answers": {"text": " ", "answer_start": 3}}, "odd_answer"),
        ({"answers": {"text": "York", "answer_start": 28}}, "answer_not_in_context"),
        ({"answers": {"text": "York", "answer_start": -5}}, "answer_not_in_context"),
    ],
)
def test_every_dropped_row_has_its_reason(values: dict[str, Any], reason: str) -> None:
    good = {"question": "where?", "context": CONTEXT, "answers": {"text": "York", "answer_start": 29}}
    dropped = FORMAT.example({**good, **values})
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason


def spoken(piece: Piece) -> str:
    span = cast(Span, piece.target)
    return "".join(text or "" for text in span["spelt"][span["start"] : span["end"] + 1]).strip()


def encode(found: Example | Dropped, **changed: Any) -> Encoded:
    assert isinstance(found, Example)
    (encoded,) = FORMAT.model_copy(update=changed).encode([found], Processor.of(TOKENIZER))
    return encoded


WORDS = st.lists(st.text(st.sampled_from("abz09.,-é好😀'"), min_size=1, max_size=7), min_size=2, max_size=30)


@settings(max_examples=100)
@given(WORDS, st.data(), st.sampled_from([" ", "  ", "\n"]))
def test_windows_are_those_of_stock_transformers_and_their_spans_spell_the_answer(
    words: list[str], data: st.DataObject, blank: str
) -> None:
    first = data.draw(st.integers(0, len(words) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(words) - 1)))
    context, answer = blank.join(words), blank.join(words[first : last + 1])
    start = len(blank.join(words[:first])) + (len(blank) if first else 0)
    encoded = encode(example({"text": answer, "answer_start": start}, context, "who?"))
    stock = TOKENIZER(
        "who?",
        context,
        truncation="only_second",
        max_length=16,
        stride=4,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    assert [piece.ids for piece in encoded.pieces] == stock["input_ids"]
    holds = []
    for i, piece in enumerate(encoded.pieces):
        span = cast(Span, piece.target)
        assert span["segments"] == stock["token_type_ids"][i]
        assert [text is not None for text in span["spelt"]] == [part == 1 for part in stock.sequence_ids(i)]
        inside = [stock["offset_mapping"][i][t] for t, part in enumerate(stock.sequence_ids(i)) if part == 1]
        whole = inside[0][0] <= start and start + len(answer) <= inside[-1][1]
        assert (span["start"] > 0) == whole
        if whole:
            assert spoken(piece) == answer
            tokens = stock["offset_mapping"][i]
            assert (tokens[span["start"]][0], tokens[span["end"]][1]) == (start, start + len(answer))
        holds.append(whole)
        assert piece.supervised == 1
    assert encoded.truncated == (not any(holds))


def test_an_answer_no_window_holds_is_counted_and_a_long_question_is_cut() -> None:
    context = " ".join(["invoice"] * 40)
    long = encode(example({"text": context, "answer_start": 0}, context))
    assert long.truncated
    assert {cast(Span, piece.target)["start"] for piece in long.pieces} == {0}
    asked = encode(example({"text": "York", "answer_start": 29}, question="please " * 50))
    assert asked.truncated
    assert any(spoken(piece) == "York" for piece in asked.pieces if cast(Span, piece.target)["start"])
    assert all(len(piece.ids) <= 16 for piece in asked.pieces)


KEEPING = FORMAT.model_copy(update={"unanswerable": "keep"})


@pytest.mark.parametrize("none", [[], {"text": [], "answer_start": []}])
def test_a_kept_question_without_an_answer_is_taught_the_first_token_in_every_window(none: Any) -> None:
    values = {"question": "who?", "context": " ".join(["invoice"] * 40), "answers": none}
    found = KEEPING.example(values)
    assert isinstance(found, Example)
    assert (found.parts[2:], found.label, found.labels) == ((), "unanswerable", ())
    (encoded,) = KEEPING.encode([found], Processor.of(TOKENIZER))
    spans = [cast(Span, piece.target) for piece in encoded.pieces]
    assert len(spans) > 2
    assert all((span["start"], span["end"], span["answers"], span["optional"]) == (0, 0, [], True) for span in spans)
    assert not encoded.truncated  # nothing was lost
    assert all(TOKENIZER.convert_ids_to_tokens(piece.ids[0]) == "[CLS]" for piece in encoded.pieces)


def test_only_an_empty_list_says_that_there_is_no_answer() -> None:
    for answers in (None, "", {}, {"text": [""], "answer_start": [0]}, {"text": None}):
        assert isinstance(KEEPING.example({"question": "who?", "context": CONTEXT, "answers": answers}), Dropped)


def test_answers_are_encoded_the_same_whether_others_have_none() -> None:
    answered = {"question": "who?", "context": CONTEXT, "answers": {"text": "York", "answer_start": 29}}
    dropping, keeping = FORMAT.example(answered), KEEPING.example(answered)
    assert isinstance(keeping, Example)
    assert keeping.label == "answerable"
    for one, other in zip(
        encode(dropping).pieces, KEEPING.encode([keeping], Processor.of(TOKENIZER))[0].pieces, strict=True
    ):
        assert one.ids == other.ids
        assert {**cast(Span, one.target), "optional": True} == other.target


def test_a_tokenizer_that_cannot_align_is_refused() -> None:
    class Slow:
        eos_token_id = None

        def __call__(self, text: Any, **options: Any) -> Any:
            raise AssertionError

    with pytest.raises(ModelError, match=r"Slow cannot say: use a model whose tokenizer has a tokenizer\.json"):
        FORMAT.encode([], Processor.of(Slow()))


def test_windows_share_at_most_a_third_of_themselves() -> None:
    columns = {"question": "q", "context": "c", "answers": "a"}
    with pytest.raises(ValidationError, match=r"stride 200 is too much for max_tokens 256.*at most 85"):
        QuestionAnswer(**columns, max_tokens=256, stride=200)
    assert QuestionAnswer(**columns, max_tokens=384, stride=128).stride == 128
    found, long = example({"text": "York", "answer_start": 29}, f"{CONTEXT} " * 40), QuestionAnswer(**columns)
    for most, shared in ((64, 21), (600, 128)):
        unsaid = encode(found, max_tokens=most, stride=None)
        assert len(unsaid.pieces) > 1
        assert [p.ids for p in unsaid.pieces] == [p.ids for p in encode(found, max_tokens=most, stride=shared).pieces]
    assert long.stride is None
    # beside the longest question that is left, a window is still wider than what it shares
    asked = example({"text": "York", "answer_start": 29}, f"{CONTEXT} " * 40, " ".join(["where"] * 90))
    for most in range(16, 80, 7):
        assert len(encode(asked, max_tokens=most, stride=None).pieces) > 1
