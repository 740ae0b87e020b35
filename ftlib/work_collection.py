"""What lies in a work folder, who needs it, and the deletion of what nobody needs.

A stage's output is needed by: the last runs of every recipe; a champion that was trained on it; a retraining that waits
for an answer; a process that has used it and goes on; whoever used it a short while ago; and every output whose record
names it. All else is garbage. Nobody's word is needed for the rest to be safe:

- Whoever uses an output holds the folder (`ftlib.workspace.enter`) from before it asks, and asking changes the time of
  the output's lock. The collector takes that lock, looks at both again, and only then deletes: an output that was found
  done is kept, and one that is asked for later is found absent, and made again.
- An output is deleted before those that its record names, and its record before its data. So a collector that is
  killed leaves folders without a record, which count as absent, and the next one removes them.
- Files that many records share have no lock. They are deleted while nobody holds the folder, and nobody can enter.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from ftlib.config import Config
from ftlib.errors import RecipeError, StorageError
from ftlib.storage.files import flush_folder, local_errors
from ftlib.workspace import RECORD, gate_of, is_named, users_in

DAY = 86400.0
SAFE_SECONDS = 3600.0
"""What was used or written more recently is never deleted, whatever the policy: who only looks holds nothing."""
WAITS_SECONDS = 8 * DAY
"""A retraining waits for an answer for at most a week."""
CLOCKS_DIFFER = 60.0
"""Seconds by which two writers of one file system may see its clock differ."""

_NAMED = re.compile(r"stages/([a-z_]+)/([0-9a-f]{16})(?![0-9a-f])")
_FINGERPRINT = re.compile(r'"fingerprint":\s*"([0-9a-f]{16})"')
_SHARED = re.compile(r"(?:outcomes|divergences)/[\w./=+-]+|(?:champions|bases|versions|plans)/[\w.+-]+")
_NOW = ("a run that goes on, or waits", "whoever used it a short while ago")
"""Who needs an output today, whatever its retention."""
_GONE = ".gone"
"""Behind the name of a folder that is being deleted."""
CACHED = ("versions", "folders")
"""Of the user's cache: what was pulled or fetched for a command."""
SHARED = ("outcomes", "divergences", "champions", "bases", "versions", "plans", "prefect/results")
"""Below the work folder: what records share by name, or anyone makes again: tables, pulled versions, cached results."""
_WHOLE = ("champions", "bases", "versions", "plans")
"""Of these the folders' members are whole folders; of the others every file counts alone."""


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


class WorkItem(Config):
    """A stage's output, or another file or folder of the work folder."""

    path: str
    """Below the work folder."""
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

    @property
    def garbage_bytes(self) -> int:
        """Return what deleting frees."""
        return sum(item.bytes for item in self.garbage)


@dataclass
class _Output:
    """One stage's output by its fingerprint, with what its record says."""

    folder: Path
    used: float = 0.0
    """When somebody last asked for it, by the file system's clock."""
    names: set[str] = field(default_factory=set[str])
    """Outputs that its record names."""
    shares: set[str] = field(default_factory=set[str])
    """Shared files that its record names."""
    content: str = ""
    needed_by: list[str] = field(default_factory=list[str])
    missed_by: list[str] = field(default_factory=list[str])
    """Who needs it although its retention is over."""

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def lock(self) -> Path:
        return self.folder.with_suffix(".lock")

    @property
    def made(self) -> bool:
        """Say whether it is there, or an attempt at it that may be resumed."""
        return (self.folder / RECORD).is_file() or self.folder.with_suffix(".work").exists()

    @property
    def parts(self) -> tuple[Path, Path, Path]:
        return self.folder, self.folder.with_suffix(".work"), self.lock


@dataclass(frozen=True)
class WorkCollector:
    """Looks through a work folder by a policy; `contents` are digests of data that others need, and their names."""

    root: Path
    policy: WorkPolicy = field(default_factory=WorkPolicy)
    contents: Mapping[str, str] = field(default_factory=dict[str, str])
    pulled: Mapping[str, str] = field(default_factory=dict[str, str])
    """Manifests whose pulled folders others need, and their names."""
    over: frozenset[str] = frozenset()
    """Retrainings that left a listing and wait no more, as somebody knows who can ask: their runs' ids."""
    clock: Callable[[], float] = time.time

    def collect(self, *, delete: bool = False) -> WorkCollected:
        """Look, and with `delete` remove garbage; without it nothing is written.

        Raises StorageError if there is no such folder, or where something cannot be read or deleted.
        """
        if not (self.root / "stages").is_dir():
            raise StorageError(f"{self.root} is no work folder: it has no stages/; give the one that runs were given")
        with local_errors(self.root, elsewhere="run as the user whose folder it is"):
            outputs = self._outputs()
            runs = self._mark(outputs)
            condemned = [output for output in outputs.values() if not output.needed_by]
            garbage = [self._item(output, runs) for output in condemned]
            kept = [self._item(output, runs) for output in outputs.values() if output.needed_by]
            spared = self._sweep(_referrers_first(condemned), outputs) if delete else set[str]()
            kept += [item for item in garbage if item.path in spared]
            garbage = [item for item in garbage if item.path not in spared]
            shared, needed, missed = self._shared(outputs.values(), {item.path for item in garbage})
            busy = tuple(item.path for item in shared) if (users := self._users()) and shared else ()
            if delete and shared and not users:
                busy = self._sweep_shared(shared)
            gone = [item for item in shared if item.path not in busy]
            kept += [*needed, *(item for item in shared if item.path in busy)]
        missed |= {self._path(one.folder): tuple(one.missed_by) for one in condemned if one.missed_by}
        gone_paths = {item.path for item in (*garbage, *gone)}
        return WorkCollected(
            folder=str(self.root),
            kept=_sorted(kept),
            garbage=_sorted([*garbage, *gone]),
            busy=tuple(sorted(busy)),
            missed={path: who for path, who in sorted(missed.items()) if path in gone_paths},
        )

    def _outputs(self) -> dict[str, _Output]:
        """Read every output's record and the time of its lock."""
        outputs: dict[str, _Output] = {}
        for path in (self.root / "stages").glob("*/*"):
            if re.fullmatch(r"[0-9a-f]{16}", path.stem) and path.suffix in ("", ".lock", ".work"):
                output = outputs.setdefault(path.stem, _Output(path.with_suffix("")))
                output.used = max(output.used, _time_of(path) if path.suffix != "" else 0.0)
        for output in outputs.values():
            output.used = output.used or _time_of(output.folder)
            text = _text(output.folder / RECORD)
            output.names = {name for _, name in _NAMED.findall(text)} - {output.key}
            output.shares = {*_SHARED.findall(text)}
            with suppress(ValueError, AttributeError):
                output.content = str(json.loads(text).get("content") or "")
        return outputs

    def _mark(self, outputs: Mapping[str, _Output]) -> dict[str, list[str]]:
        """Say of every output who needs it; return which recipes' runs used which."""
        runs = defaultdict[str, list[str]](list)
        for name, texts in self._runs().items():
            used = {key for text in texts for key in _FINGERPRINT.findall(text)}
            for key in used | {key for text in texts for _, key in _NAMED.findall(text)}:
                runs[key].append(name)
        since = self._held_since()
        for output in outputs.values():
            needs = [*self._needs(output, since, runs.get(output.key, ()))]
            if self._is_over_due(output):
                now = (output.used >= since, self.clock() - output.used < SAFE_SECONDS)
                output.missed_by += [who for who in needs if who not in _NOW]
                needs = [who for who, holds in zip(_NOW, now, strict=True) if holds and who in needs]
            output.needed_by += needs
        waiting = [output for output in outputs.values() if output.needed_by]
        while waiting:
            output = waiting.pop()
            for named in (outputs[name] for name in output.names if name in outputs):
                if not named.needed_by and self._is_over_due(named):
                    named.missed_by.append(f"{output.folder.parent.name} {output.key}, which is kept")
                elif not named.needed_by:
                    named.needed_by.append(f"{output.folder.parent.name} {output.key}, which is kept")
                    waiting.append(named)
        return runs

    def _needs(self, output: _Output, since: float, runs: Iterable[str]) -> Generator[str]:
        """Yield who needs an output, but for those whose records name it."""
        age = self.clock() - output.used
        if output.used >= since:
            yield _NOW[0]
        if not output.made and age > SAFE_SECONDS:
            return  # what a killed collector left, or the lock of what is gone: it counts as absent
        yield from (f"the last run of {name}" for name in runs)
        if output.content in self.contents:
            yield self.contents[output.content]
        if age < max(self.policy.keep_days * DAY, SAFE_SECONDS):
            yield _NOW[1]

    def _is_over_due(self, output: _Output) -> bool:
        """Say whether an output's retention is over, from when it was made."""
        days = self.policy.retention.days_of(self._path(output.folder))
        return days is not None and self.clock() - _time_of(output.folder / RECORD) > days * DAY

    def _runs(self) -> dict[str, list[str]]:
        """Return the records of every recipe's last runs: all that they used stands in them."""
        texts: dict[str, list[str]] = {}
        for folder in sorted(path for path in (self.root / "runs").glob("*") if path.is_dir()):
            past = sorted((folder / "history").glob("*.json"), reverse=True)[: self.policy.keep_runs]
            texts[folder.name] = [_text(path) for path in (folder / "run.json", folder / "retrain.json", *past)]
        return texts

    def _held_since(self) -> float:
        """Return since when somebody has held the folder, or waits: whatever was used since may be needed."""
        times = [_time_of(path) for path in self._users()]
        times += [_time_of(path) for path in (self.root / "listings").glob("*.json") if not self._is_over(path)]
        return min(times, default=float("inf")) - CLOCKS_DIFFER

    def _is_over(self, listing: Path) -> bool:
        """Say whether the retraining that left a listing waits no more."""
        return listing.stem in self.over or self.clock() - _time_of(listing) >= WAITS_SECONDS

    def _users(self) -> list[Path]:
        """Return the locks of processes that hold the folder now."""
        return [path for path in users_in(self.root).glob("*.lock") if _is_held(path)]

    def _sweep(self, condemned: list[_Output], outputs: Mapping[str, _Output]) -> set[str]:
        """Delete outputs, each under its lock, after a second look; return the paths of those that are needed now."""
        spared: set[str] = set()
        for output in condemned:
            if output.key in spared or not self._delete(output):
                spared |= {output.key, *_all_named(output, outputs)}
        return {self._path(outputs[key].folder) for key in spared if key in outputs}

    def _delete(self, output: _Output) -> bool:
        """Delete an output if nobody has asked for it since it was marked; its record first."""
        with _unwritten(output.lock) as lock:
            if lock is None:
                return False
            # One that we made just now is empty; whoever asks for an output writes into its lock.
            used = _time_of(output.lock) if output.lock.stat().st_size else output.used
            if used > output.used or used >= self._held_since():
                return False
            for part in (output.folder / RECORD, output.folder, output.folder.with_suffix(".work")):
                if part.is_dir():
                    shutil.rmtree(part)
                else:
                    part.unlink(missing_ok=True)
                    if part.parent.is_dir():
                        flush_folder(part.parent)
            output.lock.unlink(missing_ok=True)  # held: whoever waits for it sees that it has no name any more
            return True

    def _shared(
        self, outputs: Iterable[_Output], gone: set[str]
    ) -> tuple[list[WorkItem], list[WorkItem], dict[str, tuple[str, ...]]]:
        """Return the files that nothing names any more, those that something does, and who misses some of the first."""
        named = {name for output in outputs if self._path(output.folder) not in gone for name in output.shares}
        named |= {name for texts in self._runs().values() for text in texts for name in _SHARED.findall(text)}
        garbage: list[WorkItem] = []
        needed: list[WorkItem] = []
        missed: dict[str, tuple[str, ...]] = {}
        for path in self._shared_paths():
            place, age = self._path(path), self.clock() - _time_of(path)
            by = ["a record that is kept"] if place in named else []
            by += [who for manifest, who in self.pulled.items() if manifest.startswith(path.name)]
            # What no record names by design is as good as named until it is old.
            young = SAFE_SECONDS if place.startswith("outcomes/") else max(SAFE_SECONDS, self.policy.keep_days * DAY)
            by += ["whoever used it a short while ago"] if age < young else []
            by = [] if path.suffix == _GONE else by
            days = self.policy.retention.days_of(place)
            if days is not None and age > max(days * DAY, SAFE_SECONDS) and by:
                missed[place], by = tuple(by), []
            item = WorkItem(path=place, bytes=size_of([path]), days=max(age, 0.0) / DAY, needed_by=tuple(by))
            (needed if by else garbage).append(item)
        garbage += self._over_due_files(gone)
        return garbage, needed, missed

    def _over_due_files(self, gone: set[str]) -> Generator[WorkItem]:
        """Yield files that stay for ever where no retention ends it: quarantines, logs and pages."""
        for path in (*self.root.glob("stages/ingest/*/quarantine.jsonl"), *self.root.glob("runs/*/*.*")):
            place, age = self._path(path), self.clock() - _time_of(path)
            days = self.policy.retention.days_of(place)
            if days is not None and age > max(days * DAY, SAFE_SECONDS) and self._path(path.parent) not in gone:
                yield WorkItem(path=place, bytes=size_of([path]), days=age / DAY)

    def _shared_paths(self) -> Generator[Path]:
        """Yield what nobody's lock covers: tables, pulled folders, old listings and histories, locks of the dead."""
        for name in SHARED:
            for path in sorted((self.root / name).glob("*" if name in _WHOLE else "**/*")):
                if path.suffix == ".lock" and path.with_suffix(".parquet").exists():
                    continue
                if name in _WHOLE or path.is_file():
                    yield path
        yield from (path for path in sorted((self.root / "listings").glob("*.json")) if self._is_over(path))
        for folder in sorted((self.root / "runs").glob("*/history")):
            yield from sorted(folder.glob("*.json"), reverse=True)[self.policy.keep_runs :]
        yield from (path for path in sorted(users_in(self.root).glob("*.lock")) if not _is_held(path))

    def _sweep_shared(self, items: list[WorkItem]) -> tuple[str, ...]:
        """Delete shared files while nobody holds the folder or can enter; return those that somebody keeps us from."""
        users_in(self.root).mkdir(exist_ok=True)  # a copied folder has none, and nobody has entered it yet
        with gate_of(self.root).open("a+b", buffering=0) as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            if self._users():
                return tuple(item.path for item in items)
            for item in items:
                discard(self.root / item.path)
                if item.path.endswith(".parquet"):  # whoever would wait for its lock cannot enter
                    (self.root / item.path).with_suffix(".lock").unlink(missing_ok=True)
        return ()

    def _item(self, output: _Output, runs: Mapping[str, list[str]]) -> WorkItem:
        age = max(self.clock() - output.used, 0.0)
        return WorkItem(
            path=self._path(output.folder),
            bytes=size_of(output.parts),
            days=age / DAY,
            runs=tuple(runs.get(output.key, ())),
            needed_by=tuple(output.needed_by),
        )

    def _path(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


@contextmanager
def alone_in(root: Path) -> Generator[tuple[str, ...]]:
    """Let nobody enter a work folder for as long as nobody is in it; yield who is: then nothing may be deleted."""
    with local_errors(root, elsewhere="run as the user whose folder it is"):
        users_in(root).mkdir(parents=True, exist_ok=True)
        with gate_of(root).open("a+b", buffering=0) as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            held = [path for path in sorted(users_in(root).glob("*.lock")) if _is_held(path)]
            yield tuple(path.stem.rpartition("-")[0] for path in held)  # machine and process


def size_of(paths: Iterable[Path]) -> int:
    """Return the bytes of files and folders; a file that lies there under several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path in paths:
        # os.walk, unlike rglob, passes over a folder that is gone meanwhile, as one that a run has just finished.
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
        for file in (*inside, *(() if path.is_dir() else (path,))):
            with suppress(OSError):  # gone meanwhile
                facts = os.lstat(file)
                seen[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(seen.values())


def discard(path: Path) -> None:
    """Delete a file or a whole folder, which is never seen in part: in part it would be taken for another version."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    hidden = path if path.suffix == _GONE else path.with_name(f".{path.name}{_GONE}")
    path.rename(hidden)
    shutil.rmtree(hidden)


def collect_cache(
    cache: Path, policy: WorkPolicy, *, delete: bool = False, clock: Callable[[], float] = time.time
) -> WorkCollected:
    """Do as `WorkCollector.collect` for the user's cache: folders that were fetched, by when they were last used.

    What is deleted is fetched again when it is asked for. A cache that is not there is empty.
    """
    kept: list[WorkItem] = []
    garbage: list[WorkItem] = []
    with local_errors(cache, elsewhere="run as the user whose folder it is"):
        for path in sorted(path for name in CACHED for path in (cache / name).glob("*")):
            age = clock() - _time_of(path)
            young = age < max(policy.keep_days * DAY, SAFE_SECONDS) and path.suffix != _GONE
            by = ("whoever used it a short while ago",) if young else ()
            item = WorkItem(
                path=path.relative_to(cache).as_posix(), bytes=size_of([path]), days=max(age, 0) / DAY, needed_by=by
            )
            (kept if young else garbage).append(item)
            if delete and not young:
                discard(path)
    return WorkCollected(folder=str(cache), kept=_sorted(kept), garbage=_sorted(garbage))


def _referrers_first(outputs: list[_Output]) -> list[_Output]:
    """Return outputs so that none comes after one that its record names."""
    by_key = {output.key: output for output in outputs}
    ordered: dict[str, _Output] = {}
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


def _all_named(output: _Output, outputs: Mapping[str, _Output]) -> set[str]:
    found: set[str] = set()
    waiting = [*output.names]
    while waiting:
        if (name := waiting.pop()) not in found and name in outputs:
            found.add(name)
            waiting += outputs[name].names
    return found


@contextmanager
def _unwritten(lock: Path) -> Generator[bool | None]:
    """Hold a lock file without changing its time; None if somebody has it."""
    with lock.open("ab", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield True if is_named(stream, lock) else None


def _is_held(lock: Path) -> bool:
    """Say whether a process holds a lock file. A dead one's is free: the kernel saw to it."""
    try:
        with lock.open("rb", buffering=0) as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False


def _time_of(path: Path) -> float:
    """Return a file's time of change; 0 where there is none."""
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _sorted(items: Iterable[WorkItem]) -> tuple[WorkItem, ...]:
    return tuple(sorted(items, key=lambda item: (-item.bytes, item.path)))
