"""A question, a text, and the places in it that answer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator
from typing_extensions import override

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.cleaning import clean
from ftlib.data.formats.text import TextFormat, text_piece
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_targets import Span
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Value, Values, slice_values
from ftlib.errors import ModelError

_Place = tuple[int, str]
"""The answer's first character in the context, and its text."""


class QuestionAnswer(TextFormat):
    """Columns of questions, of contexts and of answers that stand in these, for extractive question answering.

    Answers are written as SQuAD does: `{"text": [...], "answer_start": [...]}`, a list of `{"text", "answer_start"}`,
    or one of them. A context that is longer than the model reads becomes several rows, windows that overlap.
    """

    kind: Literal["question_answer"] = "question_answer"
    question: str
    """The column that holds what is asked."""
    context: str
    """The column that holds the text in which the answer stands."""
    answers: str
    """The column that holds the places of the right answers."""
    max_tokens: int = Field(default=384, ge=16)
    """Of question and window together; a question takes at most half of it."""
    stride: int | None = Field(default=None, ge=0)
    """Tokens that a window shares with the one before, at most a third of `max_tokens`; None: as many of 128 as that
    allows."""
    unanswerable: Literal["drop", "keep"] = "drop"
    """Questions with an empty list of answers. keep: they are taught the row's first token, and the model may say that
    there is no answer (SQuAD 2.0, Rajpurkar et al. 2018)."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "spans"
    keeps_lines: ClassVar[bool] = True
    reads_windows: ClassVar[bool] = True

    @model_validator(mode="after")
    def _windows_move_on(self) -> Self:
        if self.stride is not None and self.stride > self._widest:
            raise ValueError(
                f"stride {self.stride} is too much for max_tokens {self.max_tokens}: a question may take half of that; "
                f"give at most {self._widest}, or leave it out"
            )
        return self

    @property
    def _widest(self) -> int:
        """A third, as SQuAD's usual 128 of 384; a window beside a long question and four special tokens is wider."""
        return max(self.max_tokens // 4, min(self.max_tokens // 3, self.max_tokens // 2 - 5))

    @property
    @override
    def may_be_unanswerable(self) -> bool:
        return self.unanswerable == "keep"

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.question, self.context, self.answers, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return a row's texts and the place of its first answer, or why it has none.

        The context is not cleaned: the answers' places are counted in it as it stands.
        """
        question, context = values.get(self.question), values.get(self.context)
        if question is None or context is None:
            return Dropped("missing_question" if question is None else "missing_context")
        if not isinstance(question, str) or not isinstance(context, str):
            return Dropped("text_not_a_string")
        asked = clean(question)
        if not asked or not context.strip():
            return Dropped("empty_text")
        answers = _places(values.get(self.answers))
        if isinstance(answers, Dropped):
            return answers
        if not answers and self.unanswerable == "drop":
            return Dropped("unanswerable")
        if any(start < 0 or context[start : start + len(text)] != text for start, text in answers):
            return Dropped("answer_not_in_context")
        texts, starts = [text for _, text in answers], [start for start, _ in answers]
        slices = slice_values(values, self.slices)
        label = None if self.unanswerable == "drop" else "answerable" if answers else "unanswerable"
        return Example(f"{asked}\n{context}", label, slices, (asked, context, *texts), starts[0] if starts else 0)

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of question and context each to be read."""
        return tokenizer.num_special_tokens_to_add(pair=True) + 2

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return each row's windows. Where a window does not hold the whole answer, it is taught its first token.

        Raises ModelError for a tokenizer that cannot say where its tokens stand.
        """
        tokenizer = processor.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"format 'question_answer' must know where each token stands, and {type(tokenizer).__name__} cannot "
                "say: use a model whose tokenizer has a tokenizer.json (a fast tokenizer)"
            )
        asked = self._cut_questions([example.parts[0] for example in examples], tokenizer)
        windows = tokenizer(
            asked,
            text_pair=[example.parts[1] for example in examples],
            truncation="only_second",
            max_length=self.max_tokens,
            stride=min(128, self._widest) if self.stride is None else self.stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            split_special_tokens=self.special_tokens == "split",
        )
        pieces: list[list[Piece]] = [[] for _ in examples]
        for i, row in enumerate(windows["overflow_to_sample_mapping"]):
            pieces[row].append(_piece(examples[row], windows, i, optional=self.unanswerable == "keep"))
        return [
            Encoded(windows, truncated=question != example.parts[0] or _lost(example, windows))
            for example, question, windows in zip(examples, asked, pieces, strict=True)
        ]

    def _cut_questions(self, questions: Sequence[str], tokenizer: Tokenizer) -> list[str]:
        """Return the questions, those that would leave no room cut to half of `max_tokens`."""
        most = self.max_tokens // 2
        offsets = tokenizer(
            list(questions),
            add_special_tokens=False,
            return_offsets_mapping=True,
            verbose=False,
            split_special_tokens=self.special_tokens == "split",
        )["offset_mapping"]
        return [
            question if len(places) <= most else question[: places[most - 1][1]]
            for question, places in zip(questions, offsets, strict=True)
        ]


def _places(value: Value) -> list[_Place] | Dropped:
    """Return the answers in any of SQuAD's spellings; an empty list says that there is none."""
    if isinstance(value, dict) and isinstance(texts := value.get("text"), list):
        starts = value.get("answer_start")
        if not isinstance(starts, list) or len(starts) != len(texts):
            return Dropped("odd_answer")
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if value is None:
        return Dropped("missing_answer")
    items = value if isinstance(value, list) else [value]
    places = [_place(item) for item in items]
    return Dropped("odd_answer") if None in places else cast("list[_Place]", places)


def _place(item: Value) -> _Place | None:
    if not isinstance(item, dict):
        return None
    text, start = item.get("text"), item.get("answer_start", item.get("start"))
    # csv and some writers of parquet know no whole numbers beside nulls
    start = int(start) if isinstance(start, float) and start.is_integer() else start
    good = isinstance(text, str) and text.strip() and isinstance(start, int) and not isinstance(start, bool)
    return (cast(int, start), cast(str, text)) if good else None


def _piece(example: Example, windows: Any, i: int, *, optional: bool) -> Piece:
    """Return one window with the answer's place in it, and what its tokens spell of the context."""
    ids: list[int] = windows["input_ids"][i]
    inside = [token for token, part in enumerate(windows.sequence_ids(i)) if part == 1]
    offsets: list[tuple[int, int]] = windows["offset_mapping"][i]
    spelt: list[str | None] = [None] * len(ids)
    for token, text in zip(inside, _spelt(example.parts[1], [offsets[token] for token in inside]), strict=True):
        spelt[token] = text
    first, last = _answer(example, inside, offsets) or (0, 0)
    segments: list[list[int]] | None = windows.get("token_type_ids")
    target = Span(
        start=first,
        end=last,
        answers=list(example.parts[2:]),
        spelt=spelt,
        segments=segments[i] if segments else [],
        optional=optional,
    )
    return text_piece(ids, target)


def _spelt(context: str, offsets: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Yield what each token adds to the text up to its end; joined from any token on, they are that text."""
    done = offsets[0][0] if offsets else 0
    for first, end in offsets:
        yield context[min(done, first) : end] if end > done else ""
        done = max(done, end)


def _answer(example: Example, inside: Sequence[int], offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the first and last token of the first answer, if the window holds all of it."""
    if len(example.parts) < 3 or not inside:
        return None
    start = cast(int, example.target)
    end = start + len(example.parts[2].rstrip())
    start += len(example.parts[2]) - len(example.parts[2].lstrip())
    if offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return None
    first = next(token for token in inside if offsets[token][1] > start)
    last = next(token for token in inside if offsets[token][1] >= end)
    return first, last


def _lost(example: Example, pieces: Sequence[Piece]) -> bool:
    """Return whether there is an answer and no window holds it."""
    return len(example.parts) > 2 and not any(cast(Span, piece.target)["start"] > 0 for piece in pieces)
