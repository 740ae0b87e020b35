"""What lies in a work place in a bucket, and the deletion of what nobody needs (`ftlib.work_collection.needs`).

    gc/00000004.json     create-only: the fourth deleting run, and for how long it has watched each blob as garbage

Nobody's word is needed for it to be safe, and no two machines' clocks are compared: ages are the server's.

- An output's record is deleted before its files, and before those of what it names. Whoever asks for it then finds it
  absent, and makes it again. Before a record goes, it is looked at again: asking for an output leaves a mark.
- A claim that gives signs of life stands for a run: whatever was used since that began is kept, and files that many
  records share are not touched.
- A blob is deleted once no record names it and no lease holds it, as seen by one run and by later ones a day on. So
  who uploads, finds a blob there and does not send it again, is not bereft of it. What an attempt names counts as
  named until its output's record is there.
- Attempts, files that calls exchange and failures of drivers, which killed runs leave, go in the same two phases: once
  no claim gave a sign of life for them, as seen by one run and by later ones.
- The numbered record keeps two collectors apart. One that is killed leaves objects that the next one finds.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

from ftlib.config import Config
from ftlib.errors import BusyError, IntegrityError, StorageError
from ftlib.storage import Store, open_objects
from ftlib.storage.claims import CLAIMS, Beat
from ftlib.storage.leases import held_leases
from ftlib.storage.sealed_records import read_record, record_bytes
from ftlib.storage.trees import Tree, read_tree
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
from ftlib.workspace import InBucket
from ftlib.workspace.in_bucket import PLACE, SharedFile

READS_AT_ONCE = 16
ALIVE_SECONDS = 600.0
"""A claim whose newest sign of life is older counts as a dead one's."""
LEASE_SECONDS = DAY
"""The same of a lease, whose signs come once a minute."""
BLOB_SECONDS = DAY
"""For how long a blob is watched as garbage."""
KEPT_RUNS = 3
"""Of the collector's own records."""

_STAGE = re.compile(r"stages/([a-z_]+)/([0-9a-f]{16})/record\.json")
_CARRIED = re.compile(r"carried/[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GOES_ON = "a run goes on"


class Swept(Config):
    """What a deleting run saw."""

    schema_version: Literal[1] = 1
    run: int
    nonce: str
    at: float
    """The collector's clock, in seconds since 1970."""
    condemned: dict[str, float]
    """Blobs and what killed runs left, and for how many seconds each has been watched as garbage."""


@dataclass(frozen=True)
class _Thing:
    """An object as the listing showed it."""

    bytes: int
    age: float


@dataclass
class _Output(Output):
    """A stage's output in a bucket, or what attempts at it left."""

    nonce: str = ""
    bytes: int = 0
    blobs: tuple[str, ...] = ()
    carried_in: set[str] = field(default_factory=set[str])
    """Carried folders that its record names."""
    marks: tuple[str, ...] = ()
    """The days on which it was used."""


@dataclass
class Seen:
    """What is there."""

    things: dict[str, _Thing]
    """Every object, in order of their paths."""
    outputs: dict[str, _Output] = field(default_factory=dict[str, _Output])
    carried: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    """Folders that were carried, and their blobs."""
    trees: dict[str, Tree] = field(default_factory=dict[str, Tree])
    """The records of outputs and of carried folders, by their paths."""
    shared: dict[str, SharedFile] = field(default_factory=dict[str, SharedFile])
    """By the name that the file has."""
    attempts: dict[str, str] = field(default_factory=dict[str, str])
    """What the small records below each attempt say."""
    alive: dict[str, float] = field(default_factory=dict[str, float])
    """Claims that give signs of life, and for how long they have been held."""

    def __post_init__(self) -> None:
        self._paths = sorted(self.things)

    def below(self, folder: str) -> dict[str, _Thing]:
        """Return the objects of a folder."""
        first, last = bisect_left(self._paths, f"{folder}/"), bisect_left(self._paths, f"{folder}0")  # 0 is behind /
        return {path: self.things[path] for path in self._paths[first:last]}

    def age(self, folder: str) -> float:
        """Return the seconds since the newest object of a folder was written."""
        return min((thing.age for thing in self.below(folder).values()), default=0.0)

    def is_made(self, key: str) -> bool:
        """Say whether a claim on an output gives signs of life, whatever its stage."""
        return any(name.endswith(f"-{key}") for name in self.alive)


@dataclass(frozen=True)
class BucketCollector:
    """Looks through a work place by a policy, as `WorkCollector` does with a folder."""

    work: InBucket
    policy: WorkPolicy = field(default_factory=WorkPolicy)
    contents: Mapping[str, str] = field(default_factory=dict[str, str])
    """Digests of data that champions need, and their names."""
    over: frozenset[str] = frozenset()
    """Retrainings that left a listing and wait no more: their runs' ids."""
    later: float = 0.0
    """Seconds from now: what is judged is what would be there then."""

    @property
    def store(self) -> Store:
        """Return the place's store."""
        return self.work.store

    def collect(self, *, delete: bool = False) -> WorkCollected:
        """Look, and with `delete` remove garbage; without it nothing is written.

        Raises StorageError if it is no work place, where a record cannot be read (then nothing is deleted), or where
        this role may not delete; BusyError if another collector is at it.
        """
        seen = self.look()
        runs = self._runs(seen)
        judge = Judge(self.policy, self.contents, runs, 0.0, self._held_since(seen))
        used_by = judge.mark(seen.outputs)
        for attempt in (output for output in seen.outputs.values() if not output.nonce):
            attempt.needed_by += [_GOES_ON] if seen.is_made(attempt.key) else []
        condemned = [output for output in seen.outputs.values() if not output.needed_by]
        items = {output.key: self._item(output, used_by.get(output.key, ())) for output in seen.outputs.values()}
        before = self._newest(seen)
        attempts = {item.path: item for item in items.values() if item.path.startswith("attempts/")}
        left = {path: item for path, item in attempts.items() if not item.needed_by} | self._left(seen)
        condemned = [output for output in condemned if output.nonce]
        spared = self._sweep(referrers_first(condemned), seen) if delete else set[str]()
        gone = {output.key for output in condemned} - spared
        kept = [item for key, item in items.items() if key not in gone and item.path not in left]
        garbage = [items[key] for key in gone]
        missed = {one.path: tuple(one.missed_by) for one in condemned if one.missed_by}
        others = [self._over_due(item, missed) for item in self._others(seen, runs, gone)]
        goes_on = bool(seen.alive or (delete and others and self._alive(Seen(self._walk(CLAIMS)))))
        busy = [item for item in others if not item.needed_by] if goes_on else []
        sure = [item for item in others if not item.needed_by and not goes_on]
        kept += [item for item in others if item.needed_by or item in busy]
        if delete:
            self._discard(path for item in sure for path in self._objects(item, seen))
        needed = self.needed_blobs(seen, gone | {item.path for item in sure})
        watched, ripe = self._watch(seen, needed, left, before)
        if delete:
            self._record(before.run + 1 if before else 1, watched)
            ripe = self._sweep_watched(ripe, seen)
            self._tidy(seen)
        shown = {path: left.get(path) or self._blob(path, seen) for path in watched}
        young = [item for path, item in shown.items() if path not in ripe]
        garbage += [*sure, *(shown[path] for path in ripe)]
        return WorkCollected(
            folder=self.store.uri,
            kept=largest_first(kept),
            garbage=largest_first(garbage),
            busy=tuple(sorted(item.path for item in busy)),
            watched=largest_first(young),
            missed={path: who for path, who in sorted(missed.items()) if path in {item.path for item in garbage}},
        )

    def look(self) -> Seen:
        """List the place and read its records."""
        seen = Seen(self._walk())
        if PLACE not in seen.things:
            raise StorageError(
                f"{self.store.uri} is no work place: it has no {PLACE}; give the one that runs were given"
            )
        if "registry.json" in seen.things:
            raise StorageError(f"{self.store.uri} holds a registry, too, which needs its blobs: it is not collected")
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            self._read_trees(seen, pool)
            self._read_small(seen, pool)
        seen.alive = self._alive(seen)
        return seen

    def _read_trees(self, seen: Seen, pool: ThreadPoolExecutor) -> None:
        """Read the records of outputs, and of folders that were carried."""
        stages = [match for path in seen.things if (match := _STAGE.fullmatch(path))]
        for output in pool.map(lambda match: self._output(match[1], match[2], seen), stages):
            if output:
                seen.outputs[output.key] = output
        carried = sorted({match[0] for path in seen.things if (match := _CARRIED.match(path))})
        for key, tree in zip(carried, pool.map(lambda key: read_tree(self.store, key), carried), strict=True):
            seen.carried[key] = tuple(file.blob for file in tree.files) if tree else ()
            seen.trees |= {key: tree} if tree else {}

    def _read_small(self, seen: Seen, pool: ThreadPoolExecutor) -> None:
        """Read the records of shared files, and what attempts say; an attempt without an output may be resumed."""
        shared = [path for path in seen.below("shared") if path.endswith(".json")]
        records = pool.map(lambda path: read_record(self.store, path, SharedFile), shared)
        for path, record in zip(shared, records, strict=True):
            if record:
                seen.shared[path.removeprefix("shared/").removesuffix(".json")] = record
        for path in (path for path in seen.below("attempts") if path.count("/") > 1):
            seen.attempts.setdefault(path.split("/")[1], "")
        small = [path for path in seen.below("attempts") if path.endswith(".json")]
        for path, data in zip(small, pool.map(self.store.read, small), strict=True):
            seen.attempts[path.split("/")[1]] += (data or b"").decode("utf-8", "replace")
        for key in seen.attempts.keys() - seen.outputs.keys():
            trained = _Output("train", key, used=-seen.age(f"attempts/{key}"), made=True)
            trained.bytes = sum(thing.bytes for thing in seen.below(f"attempts/{key}").values())
            seen.outputs[key] = trained

    def _walk(self, folder: str = "") -> dict[str, _Thing]:
        prefix = f"{self.work.place.prefix}/" if self.work.place.prefix else ""
        objects = open_objects(self.work.place).walk(f"{prefix}{folder}/" if folder else prefix)
        return {one.key.removeprefix(prefix): _Thing(one.bytes, one.age + self.later) for one in objects}

    def _output(self, stage: str, key: str, seen: Seen) -> _Output | None:
        output = _Output(stage, key, made=True)
        if (tree := read_tree(self.store, output.path)) is None:
            return None  # gone meanwhile
        seen.trees[output.path] = tree
        output.says(json.dumps(tree.artifact))
        output.carried_in = {*_CARRIED.findall(json.dumps(tree.artifact))}
        output.nonce, output.blobs = tree.nonce, tuple(file.blob for file in tree.files)
        output.bytes = sum({file.sha256: file.bytes for file in tree.files}.values())
        if stage == "ingest":  # a record names its files for ever: none of them goes alone
            output.quarantined = any(file.bytes for file in tree.below("quarantine.jsonl"))
        marks = seen.below(f"used/{stage}/{key}")
        output.marks = tuple(sorted(path.rpartition("/")[2] for path in marks))
        # A mark is made once a day: it was used then, and perhaps until a day later.
        newest = min((thing.age - DAY for thing in marks.values()), default=float("inf"))
        record = seen.things[f"{output.path}/record.json"].age
        output.used, output.written = -max(min(newest, record), 0.0), -record
        return output

    def _alive(self, seen: Seen) -> dict[str, float]:
        """Return the claims whose holders live, and for how many seconds each is held: the most if unsure."""
        newest: dict[str, str] = {}
        for path in sorted(seen.below(CLAIMS)):
            newest[path.split("/")[1]] = path
        alive: dict[str, float] = {}
        for name, path in newest.items():
            if (age := seen.things[path].age) > ALIVE_SECONDS:
                continue
            try:
                beat = read_record(self.store, path, Beat)
            except IntegrityError:
                beat = Beat(holder="", who="", at="", seconds=WAITS_SECONDS)
            if beat is None:  # a newer one took its place while we looked, or it was given back
                alive[name] = WAITS_SECONDS
            elif not beat.ended:
                alive[name] = age + beat.seconds
        return alive

    def _held_since(self, seen: Seen) -> float:
        """Return since when somebody has held the place, or waits, in seconds before now, as a negative number."""
        ages = [*seen.alive.values()]
        for name in seen.shared:
            if name.startswith("listings/") and not self._is_over(name, seen):
                ages.append(seen.things[f"shared/{name}.json"].age)
        return -max(ages) - SAFE_SECONDS if ages else float("inf")

    def _is_over(self, listing: str, seen: Seen) -> bool:
        run = listing.removeprefix("listings/").removesuffix(".json")
        return run in self.over or seen.things[f"shared/{listing}.json"].age >= WAITS_SECONDS

    def _runs(self, seen: Seen) -> dict[str, list[str]]:
        """Return the records of every recipe's last runs."""
        texts = defaultdict[str, list[str]](list)
        past = defaultdict[str, list[str]](list)
        for path in seen.below("runs"):
            if re.fullmatch(r"runs/[^/]+/(run|retrain)\.json", path):
                texts[path.split("/")[1]].append((self.store.read(path) or b"").decode("utf-8", "replace"))
        for name in seen.shared:
            if match := re.fullmatch(r"runs/([^/]+)/history/[^/]+", name):
                past[match[1]].append(name)
        for recipe, names in past.items():
            for name in sorted(names, reverse=True)[: self.policy.keep_runs]:
                data = self.store.read(seen.shared[name].file.blob)
                if data is None:
                    raise IntegrityError(f"{self.store.uri}/{seen.shared[name].file.blob} is missing: {name} is in it")
                texts[recipe].append(data.decode("utf-8", "replace"))
        return texts

    def _item(self, output: _Output, runs: Sequence[str]) -> WorkItem:
        return WorkItem(
            path=output.path if output.nonce else f"attempts/{output.key}",
            bytes=output.bytes,
            days=-output.used / DAY,
            runs=tuple(runs),
            needed_by=tuple(output.needed_by),
        )

    def _others(self, seen: Seen, runs: Mapping[str, list[str]], gone: set[str]) -> Generator[WorkItem]:
        """Yield what is there beside outputs and blobs, and who needs it."""
        kept = [output for output in seen.outputs.values() if output.key not in gone]
        said = [text for texts in runs.values() for text in texts]
        said += [text for key, text in seen.attempts.items() if key not in gone]
        named = {name for output in kept for name in output.shares}
        named |= {name for text in said for name in SHARED_NAMES.findall(text)}
        carried = {name for text in said for name in _CARRIED.findall(text)}
        carried |= {name for output in kept for name in output.carried_in}
        last = defaultdict[str, list[str]](list)
        for name in sorted(seen.shared, reverse=True):
            if match := re.fullmatch(r"runs/([^/]+)/history/[^/]+", name):
                last[match[1]].append(name)
        history = {name for names in last.values() for name in names[: self.policy.keep_runs]}
        for name, record in sorted(seen.shared.items()):
            age = seen.things[f"shared/{name}.json"].age
            by = self._wanted(name, age, seen, named, history)
            yield WorkItem(path=name, bytes=record.file.bytes, days=age / DAY, needed_by=tuple(by))
        for path, thing in seen.below("runs").items():  # the newest of each; only a retention ends them
            yield WorkItem(path=path, bytes=thing.bytes, days=thing.age / DAY, needed_by=("this place",))
        for key in seen.carried:
            age = seen.age(key)
            by = ["a record that is kept"] if key in carried else []
            by += [SHORT_WHILE] if age < max(self.policy.keep_seconds, DAY) else []
            size = sum(seen.things[blob].bytes for blob in {*seen.carried[key]} if blob in seen.things)
            yield WorkItem(path=key, bytes=size, days=age / DAY, needed_by=tuple(by))
        for key in seen.attempts:
            if (output := seen.outputs[key]).nonce and key not in gone:  # its training is done
                age = seen.age(f"attempts/{key}")
                by = [_GOES_ON] if seen.is_made(output.key) else []
                by += [SHORT_WHILE] if age < SAFE_SECONDS else []
                size = sum(thing.bytes for thing in seen.below(f"attempts/{key}").values())
                yield WorkItem(path=f"attempts/{key}", bytes=size, days=age / DAY, needed_by=tuple(by))

    def _wanted(self, name: str, age: float, seen: Seen, named: set[str], history: set[str]) -> list[str]:
        """Return who needs a shared file: a `named` one, or one of the last `history`."""
        kind = name.split("/")[0]
        if kind in ("outcomes", "divergences"):
            young = SAFE_SECONDS if kind == "outcomes" else self.policy.keep_seconds
            return [*(["a record that is kept"] if name in named else []), *([SHORT_WHILE] if age < young else [])]
        if kind == "listings":
            return [] if self._is_over(name, seen) else ["a retraining that waits"]
        if "/history/" in name:
            return ["the last run"] if name in history else []
        return ["this place"]  # where versions were published, what is to be forgotten, what later versions share

    def _over_due(self, item: WorkItem, missed: dict[str, tuple[str, ...]]) -> WorkItem:
        """Take away who needs a file whose retention is over, and remember who misses it."""
        days = self.policy.retention.days_of(item.path)
        if days is None or item.days * DAY <= max(days * DAY, SAFE_SECONDS) or not item.needed_by:
            return item
        missed[item.path] = item.needed_by
        return item.model_copy(update={"needed_by": ()})

    def _objects(self, item: WorkItem, seen: Seen) -> Iterable[str]:
        """Return the objects that an item is, its record first."""
        if item.path.split("/")[0] in ("carried", "attempts"):
            return sorted(seen.below(item.path), key=lambda path: not path.endswith("record.json"))
        return [item.path] if item.path in seen.things else [f"shared/{item.path}.json"]

    def _sweep(self, condemned: Sequence[_Output], seen: Seen) -> set[str]:
        """Delete outputs, each after a second look; return the keys of those that are needed now."""
        spared: set[str] = set()
        for output in condemned:
            if output.key in spared or not self._delete(output, seen):
                spared |= {output.key, *all_named(output, seen.outputs)}
        return spared

    def _delete(self, output: _Output, seen: Seen) -> bool:
        """Delete an output if nobody has asked for it since it was listed, and nobody makes it anew."""
        marks = tuple(self.store.list(f"used/{output.stage}/{output.key}"))
        now = read_tree(self.store, output.path)
        if marks != output.marks or (now.nonce if now else "") != output.nonce:
            return False
        claim = f"{CLAIMS}/{output.stage}-{output.key}"
        if self.store.list(claim) and self._alive(Seen(self._walk(claim))):
            return False
        attempt = sorted(seen.below(f"attempts/{output.key}"))
        used = [f"used/{output.stage}/{output.key}/{day}" for day in marks]
        self._discard([*([f"{output.path}/record.json"] if now else []), *attempt, *used])
        return True

    def _discard(self, paths: Iterable[str]) -> None:
        for path in paths:
            if not self.store.discard(path):
                raise StorageError(
                    f"{self.store.uri}/{path} may not be deleted: the collector's role needs s3:DeleteObject on it; "
                    "run `reglage work gc` as that role, a trainer's needs no such right"
                )

    def needed_blobs(self, seen: Seen, gone: set[str]) -> set[str]:
        """Return the blobs that a record names which is there, or was a moment ago."""
        blobs = {blob for output in seen.outputs.values() if output.key not in gone for blob in output.blobs}
        blobs |= {blob for key, held in seen.carried.items() if key not in gone for blob in held}
        blobs |= {record.file.blob for name, record in seen.shared.items() if name not in gone}
        texts = (text for key, text in seen.attempts.items() if key not in gone and f"attempts/{key}" not in gone)
        return blobs | {f"blobs/sha256/{digest[:2]}/{digest}" for text in texts for digest in _SHA256.findall(text)}

    def _left(self, seen: Seen) -> dict[str, WorkItem]:
        """Return what killed data stages left: files that their calls exchanged, and failures that nobody took.

        What was written since somebody has held the place may be a living one's.
        """
        since = self._held_since(seen)
        tags = {"/".join(path.split("/")[:2]) for path in seen.below("exchange")}
        left: dict[str, WorkItem] = {}
        for path in sorted({*tags, *seen.below("jobs")}):
            things = {**seen.below(path), **({path: seen.things[path]} if path in seen.things else {})}
            age = min(thing.age for thing in things.values())
            if age >= SAFE_SECONDS and -age < since:
                size = sum(thing.bytes for thing in things.values())
                left[path] = WorkItem(path=path, bytes=size, days=age / DAY)
        return left

    def _watch(
        self, seen: Seen, needed: set[str], left: Iterable[str], before: Swept | None
    ) -> tuple[dict[str, float], list[str]]:
        """Return what nothing names, and is `left`, for how long it was watched, and what was for long enough.

        No run adds more than half of what is needed, so that no single wrong clock deletes anything.
        """
        held = self._leased()
        elapsed = min(max(time.time() + self.later - before.at, 0.0), BLOB_SECONDS / 2) if before else 0.0
        earlier = before.condemned if before else {}
        blobs = [path for path in seen.below("blobs") if path not in needed and path not in held]
        watched = {path: earlier[path] + elapsed if path in earlier else 0.0 for path in (*left, *blobs)}
        return watched, [path for path, seconds in watched.items() if seconds >= BLOB_SECONDS]

    def _leased(self) -> set[str]:
        return {path for lease in held_leases(self.store) for path in lease.lease.holds}

    def _newest(self, seen: Seen) -> Swept | None:
        paths = sorted(seen.below("gc"))
        return read_record(self.store, paths[-1], Swept) if paths else None

    def _record(self, number: int, condemned: dict[str, float]) -> None:
        path = f"gc/{number:08d}.json"
        swept = Swept(run=number, nonce=uuid.uuid4().hex, at=time.time() + self.later, condemned=condemned)
        if self.store.create(path, record_bytes(swept)):
            return
        stored = read_record(self.store, path, Swept)
        if stored is None or stored.nonce != swept.nonce:
            raise BusyError(f"{self.store.uri}: another collector made run {number} meanwhile; no blob was deleted")

    def _sweep_watched(self, ripe: list[str], seen: Seen) -> list[str]:
        """Delete what was watched for long enough, unless something has come to need it since."""
        if not ripe:
            return []
        now = self.look()
        needed, left = self.needed_blobs(now, set()), self._left(now)
        deleted: list[str] = []
        for path in ripe:
            if path.startswith("blobs/"):
                spared = path in needed or path in self._leased()
            elif path.startswith("attempts/"):
                key = path.split("/")[1]
                spared = now.is_made(key) or now.below(path).keys() != seen.below(path).keys()
            else:
                spared = path not in left
            if not spared:
                self._discard(self._parts(path, now))
                deleted.append(path)
        return deleted

    @staticmethod
    def _parts(path: str, seen: Seen) -> list[str]:
        """Return the objects of what is watched."""
        return [path] if path in seen.things else sorted(seen.below(path))

    def _tidy(self, seen: Seen) -> None:
        """Delete the signs of life of the dead, days of use behind newer ones, and old records of this collector."""
        dead = [path for path, thing in seen.below(CLAIMS).items() if thing.age > DAY]
        dead = [path for path in dead if path.split("/")[1] not in seen.alive]
        leases = {path.rpartition("-")[0]: 0.0 for path in seen.below("leases")}
        for path, thing in seen.below("leases").items():
            name = path.rpartition("-")[0]
            leases[name] = min(leases[name] or thing.age, thing.age)
        dead += [path for path in seen.below("leases") if leases[path.rpartition("-")[0]] > LEASE_SECONDS]
        for output in seen.outputs.values():
            dead += [f"used/{output.stage}/{output.key}/{day}" for day in output.marks[:-1]] if output.needed_by else []
        self._discard([*dead, *sorted(seen.below("gc"))[:-KEPT_RUNS]])

    @staticmethod
    def _blob(path: str, seen: Seen) -> WorkItem:
        thing = seen.things[path]
        return WorkItem(path=path, bytes=thing.bytes, days=thing.age / DAY)
