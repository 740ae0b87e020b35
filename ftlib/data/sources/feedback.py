"""A log of what people said about a model's answers: corrections, thumbs, and the pairs that the two make."""

from __future__ import annotations

import hashlib
import json
import tempfile
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self, cast

from pydantic import model_validator
from typing_extensions import override

from ftlib.data.conversations import holds_turns, messages_of, turns_in
from ftlib.data.listed import FileVersion
from ftlib.data.row_files import read_file
from ftlib.data.row_keys import CHOSEN, DELETED, OVER, REJECTED, is_tombstone, moment_of
from ftlib.data.row_reasons import PassReason, reasons
from ftlib.data.row_versions import RowVersions
from ftlib.data.rows import BadRow, Passed, Row, Value, blame, need_column
from ftlib.data.sources.files import read_object
from ftlib.data.sources.stored_files import StoredFiles
from ftlib.errors import DataError
from ftlib.storage.files import local_errors
from ftlib.wording import thumb_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOGGED = (".jsonl", ".ndjson", ".parquet", ".jsonl.gz", ".ndjson.gz", ".jsonl.zst", ".ndjson.zst")
MESSAGES = "messages"
"""The column of a corrected chat: its turns, and what the assistant should have answered."""
_NAMES = 1000
"""Columns that are remembered, to say which there are where one is absent."""
_ASKS: dict[str, tuple[PassReason, ...]] = {
    "corrections": ("no_prompt", "no_correction"),
    "thumbs": ("no_prompt", "no_answer", "no_thumb"),
    "pairs": ("no_prompt", "no_answer"),
}
"""What a request must have to make a row, in the order in which its absence is said."""


class Feedback(StoredFiles):
    """Rows from a feedback log: jsonl and parquet files of requests, answers, thumbs, corrections and times.

    Feedback(path="log/", gives="corrections")            a row a corrected answer: prompt, correction
    Feedback(path="log/", gives="thumbs")                 a row a thumb: prompt, answer, thumb (true or false)
    Feedback(path="s3://bucket/log/", gives="pairs")      a row a pair: prompt, chosen, rejected
    Feedback(path="log/", gives="corrections", layout="chats")      messages beside prompt, a list of turns

    Lines of one request id are one request, whichever files they are in: what a later line says takes the place of what
    an earlier one said, and what it does not say stays. So a thumb that comes a day late is a line of a request id, a
    thumb and a time. A line with `_deleted: true` takes out what was said before it.

    A corrected answer makes a pair with its correction. Two answers to one prompt, one with its thumb up and the other
    with its thumb down, make one too; each answer has a part in one at least. So pairs share answers, with each other
    and with thumbs, and no hash of their own ids keeps them on one side: they are split by their prompts.
    """

    kind: Literal["feedback"] = "feedback"
    gives: Literal["corrections", "thumbs", "pairs"]
    """Which rows are made of it."""
    request: str = "request_id"
    """The column that says which request it is: a text or a whole number."""
    prompt: str = "prompt"
    """The column of what was asked: a text or, of chats, a list of turns."""
    layout: Literal["texts", "chats"] = "texts"
    """texts: prompts are texts, and one that is the turns of a chat ends the run. chats: prompts are lists of turns, a
    text is the user's one turn, and rows of corrections have the turns with their answer as `messages`, too."""
    answer: str = "answer"
    """The column of what the model answered."""
    thumb: str = "thumb"
    """The column of thumbs: true or false, 1 and 0 or -1, up or down, yes or no, good or bad."""
    correction: str = "correction"
    """The column of what the model should have answered."""
    time: str = "time"
    """The column of when a line was written: numbers, or ISO 8601 dates. A line without is older than all others."""
    drop_columns: tuple[str, ...] = ()
    """Columns that nobody reads. Others of the log, such as a language, stay in the rows."""

    introduced: ClassVar[Mapping[str, object]] = {"layout": "texts"}

    @model_validator(mode="after")
    def _differ(self) -> Self:
        names = Counter(self.log_columns)
        if doubled := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"column {doubled[0]!r} is named for two things; each has a column of its own")
        if lost := sorted({*self.drop_columns} & {*self.log_columns}):
            raise ValueError(f"drop_columns: {lost[0]!r} is read; take it out of drop_columns")
        return self

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return those of files that hold numbers, truth values and lists as such."""
        return LOGGED

    @property
    @override
    def wanted(self) -> tuple[str, ...]:
        return (".jsonl", ".parquet")

    @property
    def log_columns(self) -> tuple[str, ...]:
        """Return the columns of the log that mean something here."""
        return (self.request, self.prompt, self.answer, self.thumb, self.correction, self.time)

    @property
    @override
    def group_column(self) -> str | None:
        return self.prompt if self.gives == "pairs" else None

    @property
    @override
    def made_of(self) -> str | None:
        return self.path.rstrip("/")

    @property
    @override
    def gives_chats(self) -> bool:
        return self.layout == "chats"

    @override
    def column_hint(self, column: str) -> str:
        made = {
            "corrections": (self.prompt, *([MESSAGES] if self.layout == "chats" else []), self.correction),
            "thumbs": (self.prompt, self.answer, self.thumb),
            "pairs": (self.prompt, "chosen", "rejected"),
        }
        layout = f", `layout: {self.layout}`" if column == MESSAGES else ""
        return f"; `gives: {self.gives}`{layout} makes {', '.join(made[self.gives])}"

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow | Passed]:
        """Yield a row, a bad row or a reason for each line; rows come in the order of their requests' digests.

        A row is that of the line that said the last of what is asked, so one that a new file adds to is a fresh one.
        Costs some 60 bytes of memory a line, for pairs some 400 a thumb more, and a temporary file of all lines. Raises
        DataError for a column that no line has, and where no request gives a row.
        """
        with tempfile.TemporaryDirectory(prefix="reglage-") as folder:
            spool = Path(folder, "lines")
            log = _Log(self, files)
            with local_errors(spool), spool.open("wb") as stream:
                yield from log.spooled(self._lines(files, row_bytes), stream)
            if not log.offsets:
                return
            log.check_columns()
            with spool.open("rb") as stream:
                yield from log.rows(stream)

    def _lines(self, files: Sequence[FileVersion], row_bytes: int) -> Iterator[Row | BadRow]:
        bucket, drop = self.bucket(), frozenset(self.drop_columns)
        for file in files:
            yield from (
                read_file(file, row_bytes, drop) if bucket is None else read_object(bucket, file, row_bytes, drop)
            )


class _Line(NamedTuple):
    """A line of the log as it is spooled."""

    uri: str
    line: int
    bytes: int
    values: dict[str, Value]


class _Request(NamedTuple):
    """What is known of a request once all its lines are read."""

    values: dict[str, Value]
    said: _Line | None
    """The line that said the last of what is asked; None of one that was deleted."""
    passed: list[Passed]
    """The other lines."""


@dataclass(frozen=True, slots=True)
class _Groups:
    """The numbers of the log's lines by request, each request's from the oldest."""

    order: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Where each request ends in `order`."""

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, request: int) -> NDArray[np.int64]:
        return self.order[self.ends[request - 1] if request else 0 : self.ends[request]]


class _Log:
    """The lines of a log while they are put together."""

    def __init__(self, source: Feedback, files: Sequence[FileVersion]) -> None:
        self.source = source
        self.places = {file.uri: place for place, file in enumerate(files)}
        self.versions = RowVersions(source.request, source.time)
        self.offsets = array("q")
        """Where each line begins in the spool."""
        self.names: set[str] = set()
        self.made: Counter[str] = Counter()
        """What became of the requests: `row`, or why there is none."""
        self.thumbs: Counter[bool] = Counter()
        asked = {
            "corrections": (source.prompt, source.correction),
            "thumbs": (source.prompt, source.answer, source.thumb),
            "pairs": (source.prompt, source.answer, source.thumb, source.correction),
        }
        self.asked = asked[source.gives]

    def spooled(self, lines: Iterator[Row | BadRow], stream: IO[bytes]) -> Iterator[BadRow | Passed]:
        """Write the good lines to the spool, and yield the bad ones and those that nobody was answered by."""
        end = 0
        for row in lines:
            if isinstance(row, Row) and row.values.get("traffic") == "shadow":
                yield Passed(row.bytes, "shadow")  # of the same request as the answer that somebody saw
                continue
            bad = row if isinstance(row, BadRow) else self.versions.check(row) or self._read_thumb(row)
            if bad is not None:
                yield bad
                continue
            assert isinstance(row, Row)
            self._unfold_answer(row)
            self._unfold_prompt(row)
            if len(self.names) < _NAMES:
                self.names.update(row.values)
            file = self.places.get(row.uri)
            if not self.versions.bury(row, file):
                self.versions.add(row, file)
            self.offsets.append(end)
            end += stream.write(json.dumps([row.uri, row.line, row.bytes, row.values]).encode() + b"\n")

    def _read_thumb(self, row: Row) -> BadRow | None:
        """Make a truth value of a thumb, or return the row as a bad one."""
        name = self.source.thumb
        value = row.values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        up = thumb_of(value)
        if up is None:
            what = (
                f"says {value!r:.40}, allowed are true and false, 1 and 0 or -1, up and down, yes and no, good and bad"
            )
            return blame(row, "odd_thumb", name, what)
        row.values[name] = up
        return None

    def _unfold_answer(self, row: Row) -> None:
        """Make a text of an answer that is one in an object, as `reglage serve` logs what a model writes."""
        match row.values.get(self.source.answer):
            case {"text": str(text), **others} if not others:
                row.values[self.source.answer] = text
            case _:
                pass

    def _unfold_prompt(self, row: Row) -> None:
        """Make turns of a chat's prompt, one form of all that say the same: answers to it are found by it.

        Turns that cannot be stay as they are: the format says why. Raises DataError where prompts are to be texts.
        """
        name = self.source.prompt
        value = row.values.get(name)
        if not _says(value):
            return
        if self.source.layout == "chats":
            turns = turns_in(value) if isinstance(value, str) else messages_of(value, {})
            row.values[name] = cast("list[Value]", turns) if isinstance(turns, list) else value
        elif isinstance(value, list) or holds_turns(value):
            raise DataError(
                f"{row.uri} line {row.line}: {name!r} holds the turns of a chat, {str(value)[:40]!r}, and prompts are "
                "texts; set source.layout: chats, and a format that reads chats"
            )

    def check_columns(self) -> None:
        """Raise DataError for a column that is asked for and that no line has."""
        if len(self.names) < _NAMES:
            for name in self.asked[: 2 if self.source.gives == "pairs" else None]:
                need_column(name, self.names, self.source.path, f"; name it as source.{self._field(name)}")

    def _field(self, column: str) -> str:
        return next(
            name for name in ("prompt", "answer", "thumb", "correction") if getattr(self.source, name) == column
        )

    def rows(self, stream: IO[bytes]) -> Iterator[Row | Passed]:
        """Yield what the lines come to, request by request."""
        import numpy as np

        order, ends = self.versions.by_key()
        groups = _Groups(order, np.flatnonzero(ends) + 1)
        partners = self._partners(groups, stream) if self.source.gives == "pairs" else None
        for number in range(len(groups)):
            request = self._request(groups[number], stream)
            yield from request.passed
            if request.said is None:
                continue
            lacking = self._lacking(request.values)
            if lacking is None and partners is not None:
                made = self._pair(request, partners.get(number), groups, stream)
            else:
                made = lacking or self._row(request)
            self.made[made if isinstance(made, str) else "row"] += 1
            yield Passed(request.said.bytes, made) if isinstance(made, str) else made
        self._check_made()

    def _line(self, number: int, stream: IO[bytes]) -> _Line:
        stream.seek(self.offsets[number])
        return _Line(*json.loads(stream.readline()))

    def _request(self, group: NDArray[np.int64], stream: IO[bytes]) -> _Request:
        """Put a request's lines together, from the oldest: each counts where it says something."""
        values: dict[str, Value] = {}
        lines: list[_Line] = []
        said: _Line | None = None
        passed: list[Passed] = []
        for number in group.tolist():
            line = self._line(number, stream)
            if is_tombstone(line.values.get(DELETED)):
                passed += [Passed(before.bytes, "deleted") for before in lines]
                passed.append(Passed(line.bytes, "tombstone"))
                values, lines, said = {}, [], None
                continue
            lines.append(line)
            new = {name: value for name, value in line.values.items() if _says(value)}
            if said is None or any(name in new and new[name] != values.get(name) for name in self.asked):
                said = line
            values |= new
        values.pop(DELETED, None)
        passed += [Passed(line.bytes, "joined") for line in lines if line is not said]
        if said is not None:
            values.pop(self.source.time, None)
            if _says(moment := said.values.get(self.source.time)):
                values[self.source.time] = moment
        return _Request(values, said, passed)

    def _lacking(self, values: dict[str, Value]) -> PassReason | None:
        """Return what a request lacks to make a row; None if nothing."""
        source = self.source
        columns = {
            "no_prompt": source.prompt,
            "no_answer": source.answer,
            "no_correction": source.correction,
            "no_thumb": source.thumb,
        }
        for reason in _ASKS[source.gives]:
            if columns[reason] not in values:
                return reason
        if source.gives == "pairs" and source.correction not in values and source.thumb not in values:
            return "no_feedback"
        return None

    def _row(self, request: _Request) -> Row:
        """Return the row of a correction or a thumb: without the columns that were not asked for."""
        assert request.said is not None
        source, said = self.source, request.said
        kept = {*self.asked, source.request, source.time}
        left_out = {*source.log_columns} - kept
        values = {n: v for n, v in request.values.items() if n not in left_out}
        if source.gives == "corrections" and source.layout == "chats":
            values[MESSAGES] = _corrected(values[source.prompt], values[source.correction])
        return Row(said.uri, said.line, said.bytes, values)

    def _pair(
        self,
        request: _Request,
        partner: int | PassReason | None,
        groups: _Groups,
        stream: IO[bytes],
    ) -> Row | PassReason:
        """Return the pair that a request makes, or why it makes none."""
        assert request.said is not None
        source, mine = self.source, request.values
        if source.correction in mine:
            if mine[source.correction] == mine[source.answer]:
                return "same_answer"
            return self._paired(request.said, mine, mine[source.correction], mine[source.answer], mine[source.request])
        if partner is None or isinstance(partner, str):
            return partner or "no_counterpart"
        other = self._request(groups[partner], stream)
        assert other.said is not None
        up, down = (mine, other.values) if mine[source.thumb] else (other.values, mine)
        shared = {name: value for name, value in mine.items() if other.values.get(name) == value}
        newer = max((request.said, other.said), key=lambda line: self._moment(line))
        if source.time in newer.values:
            shared[source.time] = newer.values[source.time]
        ids = f"{up[source.request]}{OVER}{down[source.request]}"
        said = newer._replace(bytes=request.said.bytes)
        return self._paired(said, shared, up[source.answer], down[source.answer], ids)

    def _paired(self, said: _Line, values: dict[str, Value], chosen: Value, rejected: Value, ids: Value) -> Row:
        source = self.source
        left_out = {source.answer, source.thumb, source.correction}
        kept = {name: value for name, value in values.items() if name not in left_out}
        pair: dict[str, Value] = {source.request: ids, CHOSEN: chosen, REJECTED: rejected}
        return Row(said.uri, said.line, said.bytes, {**kept, **pair})

    def _partners(self, groups: _Groups, stream: IO[bytes]) -> dict[int, int | PassReason]:
        """Return, for requests with a thumb and no correction, whose answer theirs is paired with, or why with none.

        Of a prompt's answers with thumbs up and those with thumbs down, the fewer are used again in turn; so there are
        as many pairs as there are of the more, and none is left out.
        """
        source = self.source
        of_prompt: defaultdict[bytes, list[tuple[float, int, bytes, bool]]] = defaultdict(list)
        for number in range(len(groups)):
            request = self._request(groups[number], stream)
            values = request.values
            if request.said is None or self._lacking(values) or source.correction in values:
                continue
            seen = (self._moment(request.said), number, _digest(values[source.answer]), bool(values[source.thumb]))
            of_prompt[_digest(values[source.prompt])].append(seen)
            self.thumbs[bool(values[source.thumb])] += 1
        partners: dict[int, int | PassReason] = {}
        for thumbs in of_prompt.values():
            thumbs.sort()  # by time: a later thumb leaves the pairs of earlier ones as they are, as far as it can
            answers: dict[bool, dict[bytes, int]] = {True: {}, False: {}}
            both = {a for _, _, a, up in thumbs if up} & {a for _, _, a, up in thumbs if not up}
            for _, number, answer, up in thumbs:
                if answer in both:
                    partners[number] = "contradictory_thumbs"
                elif answer in answers[up]:
                    partners[number] = "joined"
                else:
                    answers[up][answer] = number
            more, fewer = sorted(([*answers[True].values()], [*answers[False].values()]), key=len, reverse=True)
            for place, number in enumerate(more):
                partners[number] = fewer[place % len(fewer)] if fewer else "no_counterpart"
            partners |= {number: cast("PassReason", "joined") for number in fewer}
        return partners

    def _moment(self, line: _Line) -> float:
        moment = moment_of(line.values.get(self.source.time))
        assert moment is not None  # it was checked when it was read
        return moment

    def _check_made(self) -> None:
        """Raise DataError where no request gave a row."""
        source, rows = self.source, self.made["row"]
        without = {reason: count for reason, count in self.made.items() if reason != "row"}
        alike = next(iter(self.thumbs)) if len(self.thumbs) == 1 else None
        said = "up" if alike else "down"
        if not rows and without:
            thumbs = f"; all {self.thumbs[alike]:,} thumbs are {said}" if alike is not None else ""
            raise DataError(
                f"{source.path}: no request gives {source.gives}: {reasons(without)}{thumbs}; gather more feedback, "
                "ask for other rows (source.gives), or name the log's columns"
            )


def _says(value: Value) -> bool:
    """Say whether a cell holds anything: null and blank do not."""
    return value is not None and (not isinstance(value, str) or bool(value.strip()))


def _corrected(prompt: Value, correction: Value) -> Value:
    """Return a chat with the answer that it should have had, a text or a turn; no list where the prompt is none."""
    turn: Value = correction if isinstance(correction, dict) else {"role": "assistant", "content": correction}
    return [*prompt, turn] if isinstance(prompt, list) else prompt


def _digest(value: Value) -> bytes:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).digest()
