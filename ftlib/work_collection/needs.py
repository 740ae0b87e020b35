"""Who needs what of a work place: one way to decide, however what is there was listed.

A stage's output is needed by: the last runs of every recipe; a champion that was trained on it; a retraining that waits
for an answer; a run that has used it and goes on; whoever used it a short while ago; and every output whose record
names it. All else is garbage.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self, TypeVar

from pydantic import Field, ValidationError

from ftlib.config import Config
from ftlib.errors import RecipeError

DAY = 86400.0
SAFE_SECONDS = 3600.0
"""What was used or written more recently is never deleted, whatever the policy: who only looks holds nothing."""
WAITS_SECONDS = 8 * DAY
"""A retraining waits for an answer for at most a week."""

NAMED = re.compile(r"stages/([a-z_]+)/([0-9a-f]{16})(?![0-9a-f])")
_FINGERPRINT = re.compile(r'"fingerprint":\s*"([0-9a-f]{16})"')
SHARED_NAMES = re.compile(r"(?:outcomes|divergences)/[\w./=+-]+|(?:champions|bases|versions|plans)/[\w.+-]+")

SHORT_WHILE = "whoever used it a short while ago"
_NOW = ("a run that goes on, or waits", SHORT_WHILE)
"""Who needs an output today, whatever its retention."""


class Retention(Config):
    """How many days what rows say is kept at most, whoever needs it; null: as long as somebody does.

    Days count from when it was made. What goes is made again from the source if somebody asks for it; the digests that
    a version has of it stay. What was used within the hour, or by a process that goes on, waits for the next time.
    """

    snapshots: float | None = Field(default=None, ge=0.0)
    """Rows as they were ingested."""
    prepared: float | None = Field(default=None, ge=0.0)
    """Rows as models read them, and what models wrote behind them."""
    quarantine: float | None = Field(default=None, ge=0.0)
    """Where bad rows were, and why."""
    outcomes: float | None = Field(default=None, ge=0.0)
    """What models answered, row by row."""
    logs: float | None = Field(default=None, ge=0.0)
    """Logs of runs, and pages, which quote rows."""

    @classmethod
    def parse(cls, words: Iterable[str]) -> Self:
        """Read `snapshots=30`, for each kind of data once. Raises RecipeError for anything else."""
        days: dict[str, str] = {}
        for word in words:
            kind, _, number = word.partition("=")
            if kind not in cls.model_fields or kind in days:
                twice = " is given twice" if kind in days else ""
                raise RecipeError(
                    f"retention: got {word!r}{twice}, allowed are KIND=DAYS, each kind once: "
                    f"{', '.join(cls.model_fields)}"
                )
            days[kind] = number
        try:
            return cls.model_validate(days)
        except ValidationError as error:
            kind = error.errors()[0]["loc"][0]
            raise RecipeError(f"retention: {kind}={days[str(kind)]}, allowed are days from 0 on") from error

    def days_of(self, path: str) -> float | None:
        """Return the days of something in a work folder, by its path there; None: it may stay."""
        return (
            getattr(self, kind) if (kind := next((k for k, of in _RETAINED.items() if of.match(path)), None)) else None
        )


_RETAINED = {
    "quarantine": re.compile(r"stages/ingest/[0-9a-f]+/quarantine\.jsonl$"),
    "snapshots": re.compile(r"stages/ingest/[0-9a-f]+$"),
    "prepared": re.compile(r"stages/(?:preprocess|quote|answer|revise|score)/[0-9a-f]+$"),
    "outcomes": re.compile(r"(?:outcomes|divergences)/"),
    "logs": re.compile(r"stages/report/[0-9a-f]+$|runs/[^/]+/[^/]+\.(?:log|html)$"),
}
"""Which paths are of a kind of data; the first that fits counts."""


class WorkPolicy(Config):
    """What is kept though nobody needs it today, and what goes though somebody does."""

    keep_days: float = Field(default=14.0, ge=0.0)
    """Days since an output was last used."""
    keep_runs: int = Field(default=1, ge=1)
    """The last runs of every recipe whose outputs are kept."""
    retention: Retention = Retention()
    """What goes after so many days, whoever needs it."""

    @property
    def keep_seconds(self) -> float:
        """Return how long what was used is kept, whoever needs it."""
        return max(self.keep_days * DAY, SAFE_SECONDS)


class WorkItem(Config):
    """A stage's output, or another file or folder of the work place."""

    path: str
    """Below the work place."""
    bytes: int
    days: float
    """Since it was last used."""
    runs: tuple[str, ...] = ()
    """Recipes whose recorded runs used it."""
    needed_by: tuple[str, ...] = ()
    """Why it is kept; empty for garbage."""

    @property
    def stage(self) -> str:
        """Return the stage, or the kind of file."""
        parts = self.path.split("/")
        return parts[1] if parts[0] == "stages" else parts[0]


class WorkCollected(Config):
    """What lies there, and what was deleted or would be."""

    folder: str
    kept: tuple[WorkItem, ...]
    garbage: tuple[WorkItem, ...]
    """Deleted, if it was asked for."""
    busy: tuple[str, ...] = ()
    """Garbage that is kept this time, since others hold the folder."""
    missed: dict[str, tuple[str, ...]] = {}
    """By path, who needs what goes because its retention is over."""
    watched: tuple[WorkItem, ...] = ()
    """Garbage of a bucket that a later run deletes, if nobody needs it then."""

    @property
    def garbage_bytes(self) -> int:
        """Return what deleting frees."""
        return sum(item.bytes for item in self.garbage)


@dataclass
class Output:
    """One stage's output by its fingerprint, with what its record says."""

    stage: str
    key: str
    used: float = 0.0
    """When somebody last asked for it, by the clock of what keeps it."""
    made: bool = False
    """Whether it is there, or an attempt at it that may be resumed."""
    names: set[str] = field(default_factory=set[str])
    """Outputs that its record names."""
    shares: set[str] = field(default_factory=set[str])
    """Shared files that its record names."""
    content: str = ""
    needed_by: list[str] = field(default_factory=list[str])
    missed_by: list[str] = field(default_factory=list[str])
    """Who needs it although its retention is over."""
    written: float = 0.0
    """When its record was written, by the same clock."""
    quarantined: bool = False
    """Whether rows are in a quarantine that does not go without it."""

    @property
    def path(self) -> str:
        """Return where it is below the work place."""
        return f"stages/{self.stage}/{self.key}"

    def says(self, record: str) -> None:
        """Take in what its record says."""
        self.names = {name for _, name in NAMED.findall(record)} - {self.key}
        self.shares = {*SHARED_NAMES.findall(record)}
        with suppress(ValueError, AttributeError):
            self.content = str(json.loads(record).get("content") or "")


Some = TypeVar("Some", bound=Output)


@dataclass(frozen=True)
class Judge:
    """What is known beside the outputs."""

    policy: WorkPolicy
    contents: Mapping[str, str]
    """Digests of data that champions need, and their names."""
    runs: Mapping[str, Sequence[str]]
    """The records of every recipe's last runs: all that they used stands in them."""
    now: float
    since: float
    """Since when somebody has held the place, or waits: whatever was used since may be needed."""

    def mark(self, outputs: Mapping[str, Output]) -> dict[str, list[str]]:
        """Say of every output who needs it; return which recipes' runs used which."""
        runs = defaultdict[str, list[str]](list)
        for name, texts in self.runs.items():
            used = {key for text in texts for key in _FINGERPRINT.findall(text)}
            for key in used | {key for text in texts for _, key in NAMED.findall(text)}:
                runs[key].append(name)
        for output in outputs.values():
            needs = [*self._needs(output, runs.get(output.key, ()))]
            if self._is_over_due(output):
                now = (output.used >= self.since, self.now - output.used < SAFE_SECONDS)
                output.missed_by += [who for who in needs if who not in _NOW]
                needs = [who for who, holds in zip(_NOW, now, strict=True) if holds and who in needs]
            output.needed_by += needs
        waiting = [output for output in outputs.values() if output.needed_by]
        while waiting:
            output = waiting.pop()
            for named in (outputs[name] for name in output.names if name in outputs):
                if not named.needed_by and self._is_over_due(named):
                    named.missed_by.append(f"{output.stage} {output.key}, which is kept")
                elif not named.needed_by:
                    named.needed_by.append(f"{output.stage} {output.key}, which is kept")
                    waiting.append(named)
        return runs

    def _needs(self, output: Output, runs: Iterable[str]) -> Generator[str]:
        """Yield who needs an output, but for those whose records name it."""
        age = self.now - output.used
        if output.used >= self.since:
            yield _NOW[0]
        if not output.made and age > SAFE_SECONDS:
            return  # what a killed collector left, or the lock of what is gone: it counts as absent
        yield from (f"the last run of {name}" for name in runs)
        if output.content in self.contents:
            yield self.contents[output.content]
        if age < self.policy.keep_seconds:
            yield SHORT_WHILE

    def _is_over_due(self, output: Output) -> bool:
        """Say whether an output's retention is over, from when it was made."""
        retention = self.policy.retention
        both = (retention.days_of(output.path), retention.quarantine if output.quarantined else None)
        days = min((days for days in both if days is not None), default=None)
        return days is not None and self.now - output.written > days * DAY


def referrers_first(outputs: Sequence[Some]) -> list[Some]:
    """Return outputs so that none comes after one that its record names."""
    by_key = {output.key: output for output in outputs}
    ordered: dict[str, Some] = {}
    seen: set[str] = set()
    for first in outputs:
        stack = [first]
        while stack:
            output = stack[-1]
            seen.add(output.key)
            below = next((name for name in output.names if name in by_key and name not in seen), None)
            if below is None:
                ordered.setdefault(output.key, stack.pop())
            else:
                stack.append(by_key[below])
    return [*ordered.values()][::-1]  # each came behind all that it names


def all_named(output: Output, outputs: Mapping[str, Output]) -> set[str]:
    """Return the outputs that a record names, and theirs."""
    found: set[str] = set()
    waiting = [*output.names]
    while waiting:
        if (name := waiting.pop()) not in found and name in outputs:
            found.add(name)
            waiting += outputs[name].names
    return found


def largest_first(items: Iterable[WorkItem]) -> tuple[WorkItem, ...]:
    """Sort what is shown."""
    return tuple(sorted(items, key=lambda item: (-item.bytes, item.path)))
