"""Which formats a table's columns may be meant for, the likeliest first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ftlib.data.guess.columns import Column, first_of, holds
from ftlib.data.iob2 import is_tag
from ftlib.data.rows import Value
from ftlib.errors import DataError
from ftlib.wording import some

TEXTS = (
    *("text", "body", "content", "sentence", "description", "review", "comment", "tweet", "message", "document"),
    *("utterance", "abstract", "summary", "headline", "title", "synopsis", "question", "query"),
)
LABELS = (
    *("label", "class", "category", "target", "sentiment", "intent", "topic", "queue", "section", "type", "tag", "y"),
    *("labels", "classes", "tags", "categories", "topics"),
)
SCORES = ("score", "rating", "stars", "urgency", "price", "value", "similarity", "grade", "points")
CHATS = ("messages", "conversations", "conversation", "chat", "turns", "dialogue", "dialog")
PAIRS = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("text1", "text2")),
    *(("text_a", "text_b"), ("question1", "question2"), ("question", "answer")),
)
FOUND = (
    *(("anchor", "positive"), ("query", "positive"), ("query", "passage"), ("query", "document")),
    *(("question", "passage"), ("synopsis", "description"), ("title", "abstract")),
)
ANSWERED = (
    *(("prompt", "completion"), ("prompt", "response"), ("instruction", "output"), ("instruction", "response")),
    *(("question", "answer"), ("input", "output"), ("source", "target"), ("input", "target"), ("text", "summary")),
    *(("document", "summary"), ("article", "highlights"), ("article", "summary")),
)
LANGUAGES = {
    "en": "English", "fr": "French", "de": "German", "es": "Spanish", "it": "Italian", "pt": "Portuguese",
    "nl": "Dutch", "pl": "Polish", "ru": "Russian", "cs": "Czech", "sv": "Swedish", "da": "Danish", "tr": "Turkish",
    "ja": "Japanese", "zh": "Chinese", "ko": "Korean", "ar": "Arabic",
}  # fmt: skip
SPLITS = ("split", "fold", "subset", "partition", "set")
SEPARATORS = (";", "|", ",")


class Proposal(NamedTuple):
    """A format as a recipe has it, and what speaks for it, a line each."""

    format: dict[str, Any]
    reasons: tuple[str, ...]


def proposals(table: Sequence[Column]) -> Iterator[Proposal]:
    """Yield formats, the likeliest first. Raises DataError for a label of which no value repeats."""
    for propose in (
        _preferences,
        _chats,
        _tags,
        _spans,
        _lists,
        _named_label,
        _found,
        _answers,
        _named_score,
        _labels,
        _scores,
        _plain,
    ):
        yield from propose(table)


def _preferences(table: Sequence[Column]) -> Iterator[Proposal]:
    prompt = first_of(table, ("prompt", "question", "instruction", "query"))
    chosen, rejected = first_of(table, ("chosen", "preferred")), first_of(table, ("rejected", "dispreferred"))
    answer = first_of(table, ("answer", "completion", "response", "output"))
    thumb = first_of(table, ("thumb", "label", "liked", "wanted"))
    layout = {"layout": "chats"} if prompt and holds(prompt, _is_turns) else {}
    if prompt and chosen and rejected:
        layout = layout or ({"layout": "chats"} if holds(chosen, _is_nested) else {})
        reason = f"{chosen.name!r} is preferred to {rejected.name!r} as an answer to {prompt.name!r}, by their names"
        named = _pair("preference", prompt=prompt, chosen=chosen, rejected=rejected)
        yield Proposal({**named, **layout, "max_tokens": 512}, (reason,))
    elif prompt and answer and thumb and holds(thumb, lambda value: isinstance(value, bool)):
        reason = f"{thumb.name!r} says true or false of {answer.name!r}, an answer to {prompt.name!r}"
        named = _pair("thumb", prompt=prompt, answer=answer, label=thumb)
        yield Proposal({**named, **layout, "max_tokens": 512}, (reason,))


def _chats(table: Sequence[Column]) -> Iterator[Proposal]:
    for column in table:
        if column.called(CHATS) or holds(column, _is_turns):
            reason = f"messages: {column.name!r} holds lists of turns; the assistant's are learnt"
            yield Proposal({"kind": "chat", "messages": column.name, "max_tokens": 512}, (reason,))
    by_name = {column.name.lower(): column.name for column in table}
    if {"instruction", "output"} <= by_name.keys():
        parts = {part: by_name[part] for part in ("instruction", "input", "output", "system") if part in by_name}
        reason = f"{', '.join(parts)}: columns as Alpaca has them; the model's own chat template puts them together"
        yield Proposal({"kind": "chat", **parts, "max_tokens": 512}, (reason,))


def _tags(table: Sequence[Column]) -> Iterator[Proposal]:
    lists = [column for column in table if holds(column, _is_texts)]
    for tags in lists:
        if all(is_tag(str(tag)) for value in tags.values[:200] if isinstance(value, list) for tag in value):
            types = sorted({str(tag)[2:] for v in tags.values if isinstance(v, list) for tag in v if tag != "O"})
            for words in lists:
                if words is not tags:
                    reason = f"words: {words.name!r}; tags: {tags.name!r}, a tag for each word, of {some(types, 8)}"
                    yield Proposal({**_pair("tagged_words", words=words, tags=tags), "max_tokens": 128}, (reason,))


def _spans(table: Sequence[Column]) -> Iterator[Proposal]:
    question = first_of(table, ("question", "query"))
    context = first_of(table, ("context", "passage", "paragraph", "document", "text"))
    answers = next((c for c in table if c.called(("answers", "answer")) and holds(c, _is_nested)), None)
    if question and context and answers:
        reason = f"an answer stands in {context.name!r}: {answers.name!r} has its text and where that starts"
        named = _pair("question_answer", question=question, context=context, answers=answers)
        empty = any(value in ([], {"text": [], "answer_start": []}) for value in answers.values)
        keep = {"unanswerable": "keep"} if empty else {}
        yield Proposal({**named, "max_tokens": 384, **keep}, (reason,))


def _lists(table: Sequence[Column]) -> Iterator[Proposal]:
    text = _text(table)
    if text is None:
        return
    for column in table:
        if column.full and holds(column, _is_texts):
            names = {str(name) for value in column.values if isinstance(value, list) for name in value}
            if 2 <= len(names) <= max(50, column.rows // 4):
                yield _labelled(table, text, column, "multi_label_text", _of_lists(column, names))
        separator = next((s for s in SEPARATORS if column.called(LABELS) and _lists_by(column, s)), None)
        if separator is not None:
            names = {part.strip() for value in column.values for part in str(value).split(separator)}
            found = _labelled(table, text, column, "multi_label_text", _of_lists(column, names))
            yield found._replace(format={**found.format, "separator": separator})


def _of_lists(column: Column, names: set[str]) -> str:
    return f"labels: {column.name!r}, any number a row, {len(names)} of them: {some(sorted(names), 6)}"


def _lists_by(column: Column, separator: str) -> bool:
    texts = [str(value) for value in column.values]
    names = {part.strip() for text in texts for part in text.split(separator)}
    apart = sum(separator in text for text in texts)
    return apart >= 0.1 * len(texts) and len(names) <= max(20, len(texts) // 10) and max(map(len, names)) < 40


def _named_label(table: Sequence[Column]) -> Iterator[Proposal]:
    named = [column for column in table if column.called(LABELS)]
    text = _text(table, *named)
    if text is None:
        return
    for column in named:
        if column.names:
            yield _labelled(table, text, column, "labeled_text", _of_label(column))
        elif (
            column.full and not column.is_number and column.length < 40 and len(column.counts) > len(column.values) / 2
        ):
            raise DataError(
                f"column {column.name!r} is called a label, and {len(column.counts):,} of its {len(column.values):,} "
                "values differ: a label must repeat to be learnt; give a column of classes, or rename it if it is none"
            )


def _labels(table: Sequence[Column]) -> Iterator[Proposal]:
    text = _text(table)
    likely = [column for column in table if column is not text and column.names and column.full and not _is_key(column)]
    # A label is rather a word than a number, and rather one of few values than of many.
    if text is None:
        return
    for column in sorted(likely, key=lambda column: (column.is_number, len(column.counts))):
        others = [other.name for other in likely if other is not column]
        found = _labelled(table, text, column, "labeled_text", _of_label(column))
        doubt = f"no column is called a label: it might be {some(others)} as well" if others else ""
        yield found._replace(reasons=(*found.reasons, *filter(None, [doubt])))


def _of_label(column: Column) -> str:
    return f"label: {column.name!r}, {column.seen}"


def _named_score(table: Sequence[Column]) -> Iterator[Proposal]:
    yield from _scored(table, [column for column in table if column.called((*SCORES, *LABELS))])


def _scores(table: Sequence[Column]) -> Iterator[Proposal]:
    yield from _scored(table, [column for column in table if column.full and not _is_key(column)])


def _scored(table: Sequence[Column], likely: Sequence[Column]) -> Iterator[Proposal]:
    text = _text(table, *likely)
    if text is None:
        return
    for column in likely:
        if column.is_number and len(column.counts) > 2:
            numbers = [float(str(value)) for value in column.values if _spells_number(value)]
            reason = f"score: {column.name!r}, numbers from {min(numbers):g} to {max(numbers):g}"
            yield _labelled(table, text, column, "scored_text", reason)


def _labelled(table: Sequence[Column], text: Column, answer: Column, kind: str, reason: str) -> Proposal:
    """Lay out texts, one or two, with what is to be said of them."""
    role = {"labeled_text": "label", "multi_label_text": "labels", "scored_text": "score"}[kind]
    pair = next((two for two in _pairs(table, PAIRS) if answer not in two), None)
    texts = {"text": pair[0].name, "pair": pair[1].name} if pair else {"text": text.name}
    read = f"text and pair: {pair[0].name!r} and {pair[1].name!r}, read together" if pair else _of_text(text)
    used = {*texts.values(), answer.name}
    few = (c for c in table if c.is_text and c.names and c.full and len(c.counts) <= 8 and not c.called(SPLITS))
    slices = [column.name for column in few if column.name not in used]
    found = {"kind": kind, **texts, role: answer.name, "max_tokens": _tokens(*(pair or (text,)))}
    sliced = f"slices: measured apart by {some(slices)}" if slices else ""
    return Proposal(found | ({"slices": slices[:3]} if slices else {}), (read, reason, *filter(None, [sliced])))


def _of_text(text: Column) -> str:
    return f"text: {text.name!r}, {text.length:.0f} characters on average"


def _found(table: Sequence[Column]) -> Iterator[Proposal]:
    for anchor, positive in _pairs(table, FOUND):
        reason = f"{positive.name!r} is to be found by {anchor.name!r}, by the columns' names"
        named = _pair("retrieval_pairs", anchor=anchor, positive=positive)
        yield Proposal({**named, "max_tokens": _tokens(anchor, positive)}, (reason,))


def _answers(table: Sequence[Column]) -> Iterator[Proposal]:
    for prompt, completion in _pairs(table, ANSWERED):
        reason = (
            f"{completion.name!r} answers {prompt.name!r}, by the columns' names; it is written by a language model"
        )
        named = _pair("prompt_completion", prompt=prompt, completion=completion)
        yield Proposal({**named, "max_tokens": 2 * _tokens(prompt, completion)}, (reason,))
    spoken = [column for column in table if column.name.lower() in LANGUAGES and column.is_text]
    if len(spoken) >= 2:
        one, other = (LANGUAGES[column.name.lower()] for column in spoken[:2])
        reason = f"{spoken[0].name!r} and {spoken[1].name!r} are languages by their names: a translation"
        named = _pair("prompt_completion", prompt=spoken[0], completion=spoken[1])
        prefix = f"Translate {one} to {other}: "
        yield Proposal({**named, "prefix": prefix, "max_tokens": 2 * _tokens(*spoken[:2])}, (reason,))


def _plain(table: Sequence[Column]) -> Iterator[Proposal]:
    if text := _text(table):
        reason = "nothing beside the text looks like what a model could answer: it learns how such texts are written"
        found = {"kind": "plain_text", "text": text.name, "max_tokens": _tokens(text)}
        yield Proposal(found, (_of_text(text), reason))


def _text(table: Sequence[Column], *without: Column) -> Column | None:
    """Return the column that is most likely the text: called so, and long; the values of a text hardly repeat."""
    likely = [column for column in table if column.is_text and column not in without and len(column.counts) > 1]
    likely = [column for column in likely if not column.names or column.called(TEXTS) or column.length > 20]
    ordered = sorted(likely, key=lambda column: (-column.full, -column.called(TEXTS[:11]), -column.length))
    return ordered[0] if ordered else None


def _pairs(table: Sequence[Column], named: Sequence[tuple[str, str]]) -> Iterator[tuple[Column, Column]]:
    for first, second in named:
        one, other = first_of(table, (first,)), first_of(table, (second,))
        if one and other and one.is_text and other.is_text:
            yield one, other


def _pair(kind: str, **named: Column) -> dict[str, Any]:
    return {"kind": kind, **{role: column.name for role, column in named.items()}}


def _tokens(*texts: Column) -> int:
    """Return what nineteen of twenty texts fit in: three characters a token, which is more tokens than English has."""
    lengths = sorted(
        sum(len(str(value)) for value in values) for values in zip(*(text.values for text in texts), strict=False)
    )
    needed = lengths[int(0.95 * (len(lengths) - 1))] / 3 + 4
    return next((size for size in (32, 64, 128) if needed <= size), 256)


def _is_key(column: Column) -> bool:
    return column.words[-1:] in (["id"], ["uuid"], ["key"], ["index"])


def _is_turns(value: Value) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(t, Mapping) and {"role", "from"} & {*t} for t in value)
    )


def _is_texts(value: Value) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_nested(value: Value) -> bool:
    return isinstance(value, (list, dict))


def _spells_number(value: Value) -> bool:
    try:
        return float(str(value)) == float(str(value))
    except ValueError:
        return False
