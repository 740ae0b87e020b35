"""From a log of feedback to what the datasets of a recipe say: corrections, thumbs, and the pairs that they make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import TypeAdapter

from ftlib.data.conversations import holds_turns
from ftlib.data.formats import Format
from ftlib.data.guess.columns import Column, first_of, holds
from ftlib.data.guess.record import Guess, LogRows
from ftlib.data.guess.sample import LEAST, Sample
from ftlib.data.guess.splits import shares
from ftlib.data.rows import Value
from ftlib.data.splitting import Keyed, SplitPolicy, split_rows
from ftlib.errors import DataError
from ftlib.wording import counted, thumb_of

_NAMES: Mapping[str, tuple[str, ...]] = {
    "request": ("request_id", "request"),
    "prompt": ("prompt", "input", "question", "instruction", "query"),
    "answer": ("answer", "completion", "response", "output"),
    "thumb": ("thumb", "thumbs", "liked"),
    "correction": ("correction", "corrected", "fix"),
    "time": ("time", "at", "timestamp", "created_at"),
}
"""What the source's columns may be called, the first as it calls them itself."""
_MOST_TOKENS = 512
_FORMATS: TypeAdapter[Format] = TypeAdapter(Format)

Rows = Mapping[str, Value]


class _Log(NamedTuple):
    """A log as its columns' names tell it."""

    columns: dict[str, str]
    """By the source's field: what the log calls it."""
    chats: bool

    def of(self, field: str) -> str:
        """Return the column that a field of the source reads; one that the log lacks has the source's own name."""
        return self.columns.get(field, _NAMES[field][0])


def guess_log(table: Sequence[Column], looked: Sample, source: Mapping[str, Any]) -> Guess | None:
    """Guess what a feedback log gives; None for a table that is none: it has requests, prompts, and what was said.

    Raises DataError for a log of which too little was said yet.
    """
    log = _log(table)
    if log is None:
        return None
    requests = [*_requests(looked.rows, log.of("request")).values()]
    policy = SplitPolicy.model_validate({"by": "group", "column": log.of("prompt"), **shares(len(requests))})
    given = [rows for rows in (_corrections(log, requests, policy), _thumbs(log, requests, policy)) if rows]
    if not given:
        raise DataError(
            f"{source['path']}: a feedback log of {counted(len(requests), 'request')}, of which too few were corrected "
            f"or have thumbs both up and down: {LEAST} of either make a start; gather more"
        )
    if any(rows.gives == "corrections" for rows in given):
        given.append(_pairs(log))
    renamed = {field: name for field, name in log.columns.items() if name != _NAMES[field][0]}
    read = {"kind": "feedback", "path": source["path"], **renamed}
    called = ", ".join(repr(log.columns[field]) for field in _NAMES if field in log.columns)
    layout = ("prompts are turns of chats, which the model's own chat template writes",) if log.chats else ()
    return Guess(
        kind=given[0].kind,
        source=read | ({"layout": "chats"} if log.chats else {}),
        format=given[0].format,
        split={"by": "group", "column": policy.column, **shares(len(requests))},
        looked=f"{looked.described} of a feedback log, {counted(len(requests), 'request')}",
        why_format=(f"a log of what people said of answers, by its columns {called}", *layout),
        why_split=(f"a {log.of('prompt')!r} stays on one side, with all that is ever said of answers to it",),
        log=tuple(given),
    )


def _log(table: Sequence[Column]) -> _Log | None:
    found = {field: column for field, names in _NAMES.items() if (column := first_of(table, names))}
    if (thumb := found.get("thumb")) and not holds(thumb, lambda value: thumb_of(value) is not None):
        del found["thumb"]
    said = {"answer", "thumb"} <= found.keys() or "correction" in found
    if not (said and {"request", "prompt"} <= found.keys()):
        return None
    return _Log({field: column.name for field, column in found.items()}, holds(found["prompt"], holds_turns))


def _requests(rows: Sequence[Rows], column: str) -> Mapping[str, Rows]:
    """Join the lines of each request; of two that say otherwise either counts, since rows are only counted."""
    requests: defaultdict[str, dict[str, Value]] = defaultdict(dict)
    for row in rows:
        if row.get(column) is not None:
            requests[str(row[column])] |= {name: value for name, value in row.items() if value not in (None, "")}
    return requests


def _corrections(log: _Log, requests: Sequence[Rows], policy: SplitPolicy) -> LogRows | None:
    prompt, correction = log.of("prompt"), log.of("correction")
    rows = [one for one in requests if prompt in one and correction in one]
    if not _fits(policy, rows, ["corrected"] * len(rows), 1):
        return None
    texts = {"kind": "prompt_completion", "prompt": prompt, "completion": correction}
    chats = {"kind": "chat", "messages": "messages", "learn": "last"}
    return _rows(log, "corrections", chats if log.chats else texts, len(rows))


def _thumbs(log: _Log, requests: Sequence[Rows], policy: SplitPolicy) -> LogRows | None:
    columns = log.of("prompt"), log.of("answer"), log.of("thumb")
    said = [(one, thumb_of(one[columns[2]])) for one in requests if {*columns} <= one.keys()]
    rows = [(one, up) for one, up in said if up is not None]
    ups = [up for _, up in rows]
    if not _fits(policy, [one for one, _ in rows], ups, 2):
        return None
    layout = dict(zip(("prompt", "answer", "label"), columns, strict=True))
    found = _rows(log, "thumbs", {"kind": "thumb", **layout} | _layout(log), len(rows))
    return found.model_copy(update={"up": ups.count(True), "down": ups.count(False)})


def _pairs(log: _Log) -> LogRows:
    layout = {"prompt": log.of("prompt"), "chosen": "chosen", "rejected": "rejected"}
    return _rows(log, "pairs", {"kind": "preference", **layout} | _layout(log), 0)


def _layout(log: _Log) -> dict[str, Any]:
    return {"layout": "chats"} if log.chats else {}


def _rows(log: _Log, gives: Literal["corrections", "thumbs", "pairs"], named: Mapping[str, Any], count: int) -> LogRows:
    format = {**named, "max_tokens": _MOST_TOKENS}
    kind = _FORMATS.validate_python(format).yields
    return LogRows(gives=gives, kind=kind, format=format, rows=count, key=log.of("request"))


def _fits(policy: SplitPolicy, rows: Sequence[Rows], words: Sequence[object], kinds: int) -> bool:
    """Say whether there are enough rows, and in each split some of each of so many words."""
    keyed = [Keyed(f"{i:012d}", b"", None, row[str(policy.column)]) for i, row in enumerate(rows)]
    return len(rows) >= LEAST and len({*zip(split_rows(policy, keyed), words, strict=True)}) == 3 * kinds
