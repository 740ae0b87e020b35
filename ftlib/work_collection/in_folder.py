"""What lies in a work folder, and the deletion of what nobody needs (`ftlib.work_collection.needs`).

Nobody's word is needed for it to be safe:

- Whoever uses an output holds the folder (`ftlib.workspace.enter`) from before it asks, and asking changes the time of
  the output's lock. The collector takes that lock, looks at both again, and only then deletes: an output that was found
  done is kept, and one that is asked for later is found absent, and made again.
- An output is deleted before those that its record names, and its record before its data. So a collector that is
  killed leaves folders without a record, which count as absent, and the next one removes them.
- Files that many records share have no lock. They are deleted while nobody holds the folder, and nobody can enter.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.files import flush_folder, local_errors
from ftlib.work_collection.needs import (
    DAY,
    SAFE_SECONDS,
    SHARED_NAMES,
    SHORT_WHILE,
    WAITS_SECONDS,
    Judge,
    Output,
    WorkCollected,
    WorkItem,
    WorkPolicy,
    all_named,
    largest_first,
    referrers_first,
)
from ftlib.workspace import RECORD, gate_of, is_named, users_in

CLOCKS_DIFFER = 60.0
"""Seconds by which two writers of one file system may see its clock differ."""
_GONE = ".gone"
"""Behind the name of a folder that is being deleted."""
CACHED = ("versions", "folders")
"""Of the user's cache: what was pulled or fetched for a command."""
SHARED = ("outcomes", "divergences", "champions", "bases", "versions", "plans", "prefect/results")
"""Below the work folder: what records share by name, or anyone makes again: tables, pulled versions, cached results."""
_WHOLE = ("champions", "bases", "versions", "plans")
"""Of these the folders' members are whole folders; of the others every file counts alone."""


@dataclass
class _Output(Output):
    """A stage's output in a folder."""

    folder: Path = Path()

    @property
    def lock(self) -> Path:
        return self.folder.with_suffix(".lock")

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
            judge = Judge(self.policy, self.contents, self._runs(), self.clock(), self._held_since())
            runs = judge.mark(outputs)
            condemned = [output for output in outputs.values() if not output.needed_by]
            garbage = [self._item(output, runs) for output in condemned]
            kept = [self._item(output, runs) for output in outputs.values() if output.needed_by]
            spared = self._sweep(referrers_first(condemned), outputs) if delete else set[str]()
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
            kept=largest_first(kept),
            garbage=largest_first([*garbage, *gone]),
            busy=tuple(sorted(busy)),
            missed={path: who for path, who in sorted(missed.items()) if path in gone_paths},
        )

    def _outputs(self) -> dict[str, _Output]:
        """Read every output's record and the time of its lock."""
        outputs: dict[str, _Output] = {}
        for path in (self.root / "stages").glob("*/*"):
            if re.fullmatch(r"[0-9a-f]{16}", path.stem) and path.suffix in ("", ".lock", ".work"):
                output = outputs.setdefault(
                    path.stem, _Output(path.parent.name, path.stem, folder=path.with_suffix(""))
                )
                output.used = max(output.used, _time_of(path) if path.suffix != "" else 0.0)
        for output in outputs.values():
            output.used = output.used or _time_of(output.folder)
            output.written = _time_of(output.folder / RECORD)
            output.made = (output.folder / RECORD).is_file() or output.folder.with_suffix(".work").exists()
            output.says(_text(output.folder / RECORD))
        return outputs

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
                spared |= {output.key, *all_named(output, outputs)}
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
        named |= {name for texts in self._runs().values() for text in texts for name in SHARED_NAMES.findall(text)}
        garbage: list[WorkItem] = []
        needed: list[WorkItem] = []
        missed: dict[str, tuple[str, ...]] = {}
        for path in self._shared_paths():
            place, age = self._path(path), self.clock() - _time_of(path)
            by = ["a record that is kept"] if place in named else []
            by += [who for manifest, who in self.pulled.items() if manifest.startswith(path.name)]
            # What no record names by design is as good as named until it is old.
            young = SAFE_SECONDS if place.startswith("outcomes/") else self.policy.keep_seconds
            by += [SHORT_WHILE] if age < young else []
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
            # What begins with a dot is being fetched, and a folder's time stands still while its files grow.
            keeps = max(policy.keep_seconds, DAY) if path.name.startswith(".") else policy.keep_seconds
            young = age < keeps and path.suffix != _GONE
            by = (SHORT_WHILE,) if young else ()
            item = WorkItem(
                path=path.relative_to(cache).as_posix(), bytes=size_of([path]), days=max(age, 0) / DAY, needed_by=by
            )
            (kept if young else garbage).append(item)
            if delete and not young:
                discard(path)
    return WorkCollected(folder=str(cache), kept=largest_first(kept), garbage=largest_first(garbage))


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
