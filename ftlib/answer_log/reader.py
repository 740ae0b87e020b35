"""A log read by a window of time: answers once each, with what was said of them later, in memory that does not grow.

Answers lie in a scratch database on disk while they are joined, so a million cost as little memory as a thousand, and
neither the order of files nor of lines matters: of an answer that was written twice the earlier copy counts, of what
was said of it the newest.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from pydantic import ValidationError

from ftlib.answer_log.files import Damage, Damages, LogFile, list_log, records
from ftlib.answer_log.place import MEASURES, AnswerLog
from ftlib.answer_log.record import LateLabel, LiveAnswer
from ftlib.config import Config
from ftlib.wording import thumb_of

R = TypeVar("R", LiveAnswer, LateLabel)

SLACK = 86_400.0
"""Seconds by which a file's date and its records' may differ: an older file has nothing of the window."""
AHEAD = 3_600.0
"""Seconds by which a record may be dated after now; beyond that a clock was wrong."""
_UP, _DOWN = "up", "down"
_OURS, _SHADOW, _OTHER_VERSION, _OTHER_MODEL = range(4)
_NOT_OURS = {
    _SHADOW: "made in the shadow of another version's",
    _OTHER_VERSION: "of another version",
    _OTHER_MODEL: "of another model",
}
_LABEL, _THUMB, _CORRECTION = range(3)
_OF_AN_ANSWER = frozenset(("input", "label", "probability"))
"""Fields of which an answer has one: a line without is no answer where labels are in the same files."""
_SKIPPED = {"answer", "seconds"}
"""An answer's fields that nothing here reads."""
_AT_ONCE = 5000
_CACHE_KIB = 65_536
_TABLES = """
create table answers(request blob, source integer, at real, twin blob, length integer, measures text, label text,
                     probability real, primary key(request, source)) without rowid;
create table said(request blob, what integer, at real, value text, primary key(request, what)) without rowid;
"""


class Asked(NamedTuple):
    """Which answers are wanted."""

    name: str
    version: int
    manifest: str
    """The sha256 of the version's manifest: a version of the same number may be another registry's."""
    since: float
    """Seconds since 1970; earlier ones are left out."""
    now: float


class Answer(NamedTuple):
    """One answer with what became known of it."""

    at: float
    length: int | None
    measures: dict[str, int]
    label: str | None
    probability: float | None
    right_label: str | None
    thumb: bool | None


class Reading(Config):
    """What was read of a log, and where every record went."""

    answer_files: int = 0
    label_files: int = 0
    older_files: int = 0
    """Files that were written before the window began, and not read."""
    answers: int = 0
    """Answers of the version in the window, each once."""
    left_out: dict[str, int] = {}
    """Answers that are not among those, by the reason."""
    damaged: dict[str, Damage] = {}
    """What could not be read, by the reason."""
    labelled: int = 0
    """Answers whose label, what turned out to be true, is known."""
    thumbs: int = 0
    """Answers of which a thumb is known."""
    labels_elsewhere: int = 0
    """Labels and thumbs of requests that no answer of the version in the window has."""
    strange_labels: int = 0
    """Right labels, of answers since the version is in place, that it does not have; none is judged by them."""
    labels_replaced: int = 0
    """Labels and thumbs that a newer one of the same request replaced."""

    @property
    def damages(self) -> int:
        """Return how many records or files could not be read."""
        return sum(one.count for one in self.damaged.values())


@dataclass
class LogWindow:
    """The answers of a version in a window of time."""

    database: sqlite3.Connection
    reading: Reading

    def answers(self) -> Iterator[Answer]:
        """Yield every answer once, in an order that is the same for the same records."""
        rows = self.database.execute(
            "select a.at, a.length, a.measures, a.label, a.probability, l.value, t.value from answers a "
            f"left join said l on l.request = a.request and l.what = {_LABEL} "
            f"left join said t on t.request = a.request and t.what = {_THUMB} "
            f"where a.source = {_OURS} order by a.request"
        )
        for at, length, measures, label, probability, right, thumb in rows:
            told = None if thumb is None else thumb == _UP
            yield Answer(at, length, json.loads(measures) if measures else {}, label, probability, right, told)


@contextmanager
def read_log(log: AnswerLog, asked: Asked) -> Generator[LogWindow]:
    """Give what a version answered in a window, with what was said of it since.

    Damaged lines and files are counted. Raises StorageError for a place that cannot be listed.
    """
    with (
        tempfile.TemporaryDirectory(prefix="reglage-monitor-") as scratch,
        closing(sqlite3.connect(Path(scratch, "log.sqlite"), isolation_level=None)) as database,
    ):
        database.executescript(
            f"pragma journal_mode=off; pragma synchronous=off; pragma cache_size=-{_CACHE_KIB};" + _TABLES
        )
        damages, of_labels, left = Damages(), Damages(), Counter[str]()
        answers, older = _recent(list_log(log.answers_at), asked)
        labels, older_labels = _recent(list_log(log.labels_at), asked)
        read = _insert_answers(database, _answers(answers, log, asked, damages, left))
        read_labels = _insert_labels(database, _labels(labels, log, asked, of_labels))
        yield LogWindow(
            database,
            Reading(
                answer_files=len(answers),
                label_files=len(labels),
                older_files=older + older_labels,
                **_counts(database, read, read_labels, left),
                damaged=damages.beside(of_labels, of_the_same_lines=log.one_place).told(),
            ),
        )


def moment(value: object) -> float:
    """Return a time as seconds since 1970: of ISO 8601 (UTC where it says no zone), or of a number of them.

    A number beyond 1e11 is taken as milliseconds. Raises ValueError.
    """
    if isinstance(value, bool):
        raise ValueError("a truth value is no time")
    if isinstance(value, int | float):
        return value / 1000 if abs(value) > 1e11 else float(value)
    time = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _recent(files: list[LogFile], asked: Asked) -> tuple[list[LogFile], int]:
    """Return the files that may hold something of the window, and how many others there are."""
    longest = asked.now - asked.since + SLACK
    recent = [file for file in files if file.age <= longest]
    return recent, len(files) - len(recent)


def _answers(
    files: list[LogFile], log: AnswerLog, asked: Asked, damages: Damages, left: Counter[str]
) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table `answers`; which are left out for their time is counted in `left`."""
    given = {"name": asked.name, "version": asked.version} if log.columns else {}  # a foreign log may be of one model
    measures = tuple(log.columns.get(name, name) for name in MEASURES)
    for record, at, _, said in _parsed(files, LiveAnswer, log.columns, given, damages, measures):
        if log.one_place and not said & _OF_AN_ANSWER and not record.measures:
            continue  # it says something of an answer that is another line
        if at > asked.now + AHEAD:
            left["dated after now: a clock was wrong"] += 1
        elif at < asked.since:
            left["answered before the window"] += 1
        else:
            yield _row(record, at, asked)


def _row(record: LiveAnswer, at: float, asked: Asked) -> tuple[Any, ...]:
    measures = dict(record.measures)
    length = measures.pop("length", None)
    if length is None and isinstance(record.input, str):
        length = len(record.input)
    told = json.dumps(measures, sort_keys=True) if measures else None
    values = (length, told, record.label, record.probability)
    twin = hashlib.blake2b(repr(values).encode(), digest_size=8).digest()
    return (_key(record.request), _source(record, asked), at, twin, *values)


def _source(record: LiveAnswer, asked: Asked) -> int:
    if record.name != asked.name:
        return _OTHER_MODEL
    if record.version != asked.version:
        return _OTHER_VERSION
    if record.manifest and record.manifest != asked.manifest:
        return _OTHER_MODEL
    return _OURS if record.traffic == "answered" else _SHADOW


def _labels(files: list[LogFile], log: AnswerLog, asked: Asked, damages: Damages) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of the table `said`."""
    for record, at, where, _ in _parsed(files, LateLabel, _label_columns(log), {}, damages, ()):
        thumb = None if record.thumb is None else _UP if record.thumb else _DOWN
        said = ((_LABEL, record.label), (_THUMB, thumb), (_CORRECTION, record.correction))
        rows = [(_key(record.request), what, at, value) for what, value in said if value is not None]
        if not rows and log.one_place:
            continue  # it is an answer
        if not rows:
            damages.add("a label that says nothing", where)
        elif at > asked.now + AHEAD:
            damages.add("a label that is dated after now: a clock was wrong", where)
        else:
            yield from rows


def _label_columns(log: AnswerLog) -> dict[str, str]:
    """Return what the fields of labels are called; in one place with answers `label` is theirs."""
    return {**({"label": ""} if log.one_place else {}), **log.label_columns}


def _parsed(
    files: list[LogFile],
    kind: type[R],
    columns: Mapping[str, str],
    given: Mapping[str, Any],
    damages: Damages,
    measures: tuple[str, ...],
) -> Iterator[tuple[R, float, str, frozenset[str]]]:
    """Yield records with their time, their place and the fields that they have; those that ours have not are ignored.

    A column that is called nothing is none.
    """
    names = {field: columns.get(field, field) for field in kind.model_fields if field not in _SKIPPED}
    wanted = (*names.values(), *measures)
    for file in files:
        for where, values in records(file, wanted, damages):
            found = {field: values[column] for field, column in names.items() if column in values}
            try:
                at = moment(found["at"])
            except KeyError:
                damages.add("no time (at)", where)
                continue
            except (ValueError, OverflowError):
                damages.add("a time (at) that is not ISO 8601", where)
                continue
            try:
                record = kind.model_validate(_fields({**given, **found}, values, measures))
                yield record, at, where, frozenset(name for name, value in found.items() if value is not None)
            except ValidationError as error:
                problem = error.errors(include_input=False, include_url=False)[0]
                damages.add(f"{'.'.join(map(str, problem['loc'][:1]))}: {problem['msg']}", where)


def _fields(found: dict[str, Any], values: Mapping[str, Any], measures: tuple[str, ...]) -> dict[str, Any]:
    """Return a record's fields as ours are: names and classes that are numbers as text, measures together."""
    told = {name: values[column] for name, column in zip(MEASURES, measures, strict=False) if column in values}
    ours: dict[str, Any] = {
        name: str(found[name])
        for name in ("request", "label", "at")
        if isinstance(found.get(name), int | float | datetime) and not isinstance(found.get(name), bool)
    }
    if (thumb := thumb_of(found.get("thumb"))) is not None:
        ours["thumb"] = thumb
    if isinstance(found.get("input"), list | dict):
        ours["input"] = None  # turns of a chat: their length is no text's
    if not measures:
        return {**found, **ours}
    own = found.get("measures") or {}
    if isinstance(own, dict):  # a table has every measure in every row, null where there is none
        told |= {name: value for name, value in cast("dict[str, Any]", own).items() if value is not None}
        own = told
    return {**found, **ours, "measures": own}


def _insert_answers(database: sqlite3.Connection, rows: Iterator[tuple[Any, ...]]) -> int:
    return _insert(
        database,
        "insert into answers values(?,?,?,?,?,?,?,?) on conflict do update set at=excluded.at, twin=excluded.twin, "
        "length=excluded.length, measures=excluded.measures, label=excluded.label, probability=excluded.probability "
        "where (excluded.at, excluded.twin) < (at, twin)",
        rows,
    )


def _insert_labels(database: sqlite3.Connection, rows: Iterator[tuple[Any, ...]]) -> int:
    """Insert what was said: of a request the newest label, thumb and correction count."""
    return _insert(
        database,
        "insert into said values(?,?,?,?) on conflict do update set at=excluded.at, value=excluded.value "
        "where (excluded.at, excluded.value) > (at, value)",
        rows,
    )


def _insert(database: sqlite3.Connection, statement: str, rows: Iterator[tuple[Any, ...]]) -> int:
    read = 0
    database.execute("begin")
    while block := list(islice(rows, _AT_ONCE)):
        database.executemany(statement, block)
        read += len(block)
    database.execute("commit")
    return read


def _counts(database: sqlite3.Connection, read: int, read_labels: int, left: Counter[str]) -> dict[str, Any]:
    """Count where the records went."""
    one: Callable[[str], int] = lambda query: database.execute(query).fetchone()[0]  # noqa: E731
    by_source: dict[int, int] = dict(database.execute("select source, count(*) from answers group by source"))
    for source, reason in _NOT_OURS.items():
        left[reason] = by_source.get(source, 0)
    left["written more than once"] = read - sum(by_source.values())
    joined = f"from answers a join said s using(request) where a.source = {_OURS}"
    distinct = one("select count(*) from said")
    return {
        "answers": by_source.get(_OURS, 0),
        "left_out": {reason: count for reason, count in sorted(left.items()) if count},
        "labelled": one(f"select count(*) {joined} and s.what = {_LABEL}"),
        "thumbs": one(f"select count(*) {joined} and s.what = {_THUMB}"),
        "labels_elsewhere": distinct - one(f"select count(*) {joined}"),
        "labels_replaced": read_labels - distinct,
    }


def _key(request: str) -> bytes:
    return hashlib.blake2b(request.encode(errors="surrogatepass"), digest_size=16).digest()
