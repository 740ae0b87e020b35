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

import re
import time
import uuid
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ftlib.config import Config
from ftlib.errors import BusyError, IntegrityError, StorageError
from ftlib.storage import Store
from ftlib.storage.claims import CLAIMS
from ftlib.storage.leases import held_leases
from ftlib.storage.sealed_records import read_record, record_bytes
from ftlib.storage.trees import read_tree
from ftlib.work_collection.bucket_contents import (
    CARRIED,
    BucketContents,
    FoundOutput,
    list_objects,
    living_claims,
    look,
)
from ftlib.work_collection.needs import (
    DAY,
    SAFE_SECONDS,
    SHARED_NAMES,
    SHORT_WHILE,
    WAITS_SECONDS,
    Judge,
    WorkCollected,
    WorkItem,
    WorkPolicy,
    all_named,
    largest_first,
    referrers_first,
)
from ftlib.workspace import InBucket

LEASE_SECONDS = DAY
"""The same of a lease, whose signs come once a minute."""
BLOB_SECONDS = DAY
"""For how long a blob is watched as garbage."""
SECONDS_BETWEEN_LOOKS = 10.0
"""While blobs are deleted, which may take hours: a run that begins meanwhile comes to need what nothing needed."""
KEPT_RUNS = 3
"""Of the collector's own records."""

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


@dataclass
class _Judged:
    """What a look comes to, part by part."""

    left: dict[str, WorkItem]
    """What killed runs left, by its path: watched as blobs are before it goes."""
    kept: list[WorkItem] = field(default_factory=list[WorkItem])
    garbage: list[WorkItem] = field(default_factory=list[WorkItem])
    busy: list[str] = field(default_factory=list[str])
    """What nobody needs but, perhaps, a run that goes on."""
    missed: dict[str, tuple[str, ...]] = field(default_factory=dict[str, "tuple[str, ...]"])
    """Who needs what goes all the same, because a retention is over."""
    gone: set[str] = field(default_factory=set[str])
    """Keys of outputs, and paths of what is beside them, that name nothing any more."""


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
        seen = look(self.work, self.later)
        runs = self._runs(seen)
        judged = _Judged(self._left(seen))
        self._judge_outputs(judged, seen, runs, delete=delete)
        self._judge_others(judged, seen, runs, delete=delete)
        young = self._judge_watched(judged, seen, delete=delete)
        went = {item.path for item in judged.garbage}
        return WorkCollected(
            folder=self.store.uri,
            kept=largest_first(judged.kept),
            garbage=largest_first(judged.garbage),
            busy=tuple(sorted(judged.busy)),
            watched=largest_first(young),
            missed={path: who for path, who in sorted(judged.missed.items()) if path in went},
        )

    def _judge_outputs(
        self, judged: _Judged, seen: BucketContents, runs: Mapping[str, list[str]], *, delete: bool
    ) -> None:
        """Judge the outputs of stages, and delete those that nobody needs; attempts at one are watched first."""
        used_by = Judge(self.policy, self.contents, runs, 0.0, self._held_since(seen)).mark(seen.outputs)
        outputs = seen.outputs.values()
        attempts = [output for output in outputs if not output.nonce]
        for attempt in attempts:
            attempt.needed_by += [_GOES_ON] if seen.is_made(attempt.key) else []
        condemned = [output for output in outputs if output.nonce and not output.needed_by]
        items = {output.key: self._item(output, used_by.get(output.key, ())) for output in outputs}
        judged.left |= {items[one.key].path: items[one.key] for one in attempts if not one.needed_by}
        spared = self._sweep(referrers_first(condemned), seen) if delete else set[str]()
        judged.gone |= {output.key for output in condemned} - spared
        judged.garbage += [items[key] for key in judged.gone]
        judged.kept += [i for key, i in items.items() if key not in judged.gone and i.path not in judged.left]
        judged.missed |= {output.path: tuple(output.missed_by) for output in condemned if output.missed_by}

    def _judge_others(
        self, judged: _Judged, seen: BucketContents, runs: Mapping[str, list[str]], *, delete: bool
    ) -> None:
        """Judge what is there beside outputs and blobs; while a run goes on, none of it is touched."""
        others = [self._over_due(item, judged.missed) for item in self._others(seen, runs, judged.gone)]
        garbage = [item for item in others if not item.needed_by]
        judged.kept += [item for item in others if item.needed_by]
        if seen.alive or (delete and others and self._is_claimed(CLAIMS)):
            judged.kept += garbage
            judged.busy += [item.path for item in garbage]
            return
        if delete:
            self._discard(path for item in garbage for path in self._objects(item, seen))
        judged.garbage += garbage
        judged.gone |= {item.path for item in garbage}

    def _judge_watched(self, judged: _Judged, seen: BucketContents, *, delete: bool) -> list[WorkItem]:
        """Judge blobs and what killed runs left; return what is garbage and was not watched for long enough."""
        before = self._newest(seen)
        watched, ripe = self._watch(seen, seen.needed_blobs(judged.gone), judged.left, before)
        if delete:
            self._record(before.run + 1 if before else 1, watched)
            ripe = self._sweep_watched(ripe, seen)
            self._tidy(seen)
        shown = {path: judged.left.get(path) or self._blob(path, seen) for path in watched}
        judged.garbage += [shown[path] for path in ripe]
        return [item for path, item in shown.items() if path not in ripe]

    def _held_since(self, seen: BucketContents) -> float:
        """Return since when somebody has held the place, or waits, in seconds before now, as a negative number."""
        ages = [*seen.alive.values()]
        for name in seen.shared:
            if name.startswith("listings/") and not self._is_over(name, seen):
                ages.append(seen.things[f"shared/{name}.json"].age)
        return -max(ages) - SAFE_SECONDS if ages else float("inf")

    def _is_over(self, listing: str, seen: BucketContents) -> bool:
        run = listing.removeprefix("listings/").removesuffix(".json")
        return run in self.over or seen.things[f"shared/{listing}.json"].age >= WAITS_SECONDS

    def _runs(self, seen: BucketContents) -> dict[str, list[str]]:
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

    def _item(self, output: FoundOutput, runs: Sequence[str]) -> WorkItem:
        return WorkItem(
            path=output.path if output.nonce else f"attempts/{output.key}",
            bytes=output.bytes,
            days=-output.used / DAY,
            runs=tuple(runs),
            needed_by=tuple(output.needed_by),
        )

    def _others(self, seen: BucketContents, runs: Mapping[str, list[str]], gone: set[str]) -> Generator[WorkItem]:
        """Yield what is there beside outputs and blobs, and who needs it."""
        kept = [output for output in seen.outputs.values() if output.key not in gone]
        said = [text for texts in runs.values() for text in texts]
        said += [text for key, text in seen.attempts.items() if key not in gone]
        named = {name for output in kept for name in output.shares}
        named |= {name for text in said for name in SHARED_NAMES.findall(text)}
        carried = {name for text in said for name in CARRIED.findall(text)}
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
                size = seen.bytes_below(f"attempts/{key}")
                yield WorkItem(path=f"attempts/{key}", bytes=size, days=age / DAY, needed_by=tuple(by))

    def _wanted(self, name: str, age: float, seen: BucketContents, named: set[str], history: set[str]) -> list[str]:
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

    def _objects(self, item: WorkItem, seen: BucketContents) -> Iterable[str]:
        """Return the objects that an item is, its record first."""
        if item.path.split("/")[0] in ("carried", "attempts"):
            return sorted(seen.below(item.path), key=lambda path: not path.endswith("record.json"))
        return [item.path] if item.path in seen.things else [f"shared/{item.path}.json"]

    def _sweep(self, condemned: Sequence[FoundOutput], seen: BucketContents) -> set[str]:
        """Delete outputs, each after a second look; return the keys of those that are needed now."""
        spared: set[str] = set()
        for output in condemned:
            if output.key in spared or not self._delete(output, seen):
                spared |= {output.key, *all_named(output, seen.outputs)}
        return spared

    def _delete(self, output: FoundOutput, seen: BucketContents) -> bool:
        """Delete an output if nobody has asked for it since it was listed, and nobody makes it anew."""
        marks = tuple(self.store.list(f"used/{output.stage}/{output.key}"))
        now = read_tree(self.store, output.path)
        if marks != output.marks or (now.nonce if now else "") != output.nonce:
            return False
        claim = f"{CLAIMS}/{output.stage}-{output.key}"
        if self.store.list(claim) and self._is_claimed(claim):
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

    def _is_claimed(self, folder: str) -> bool:
        """Say whether a claim below this folder gives signs of life now."""
        return bool(living_claims(self.store, BucketContents(list_objects(self.work, folder=folder))))

    def _left(self, seen: BucketContents) -> dict[str, WorkItem]:
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
        self, seen: BucketContents, needed: set[str], left: Iterable[str], before: Swept | None
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

    def _newest(self, seen: BucketContents) -> Swept | None:
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

    def _sweep_watched(self, ripe: list[str], seen: BucketContents) -> list[str]:
        """Delete what was watched for long enough, unless something has come to need it since.

        Leases are read before the records: an uploader has one until its record can be seen. One that is faster than
        the time between two looks, and found a blob just before it goes, looks again after its record.
        """
        looked, now, deleted = float("-inf"), seen, list[str]()
        needed, left = set[str](), set[str]()
        for path in ripe:
            leased = self._leased()
            if time.monotonic() - looked > SECONDS_BETWEEN_LOOKS:
                now = look(self.work, self.later)
                needed, left = now.needed_blobs(set()), {*self._left(now)}
                looked = time.monotonic()
            if path.startswith("blobs/"):
                spared = path in needed or path in leased
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
    def _parts(path: str, seen: BucketContents) -> list[str]:
        """Return the objects of what is watched."""
        return [path] if path in seen.things else sorted(seen.below(path))

    def _tidy(self, seen: BucketContents) -> None:
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
    def _blob(path: str, seen: BucketContents) -> WorkItem:
        thing = seen.things[path]
        return WorkItem(path=path, bytes=thing.bytes, days=thing.age / DAY)
