"""What lies in a work place in a bucket, as one listing and the records show it: nothing is judged, nothing is written.

Ages are the server's, in seconds, so no two machines' clocks are compared.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ftlib.errors import IntegrityError, StorageError
from ftlib.storage import Store, open_objects
from ftlib.storage.claims import CLAIMS, Beat
from ftlib.storage.sealed_records import read_record
from ftlib.storage.trees import Tree, read_tree
from ftlib.work_collection.needs import DAY, WAITS_SECONDS, Output
from ftlib.workspace import InBucket
from ftlib.workspace.in_bucket import PLACE, SharedFile

READS_AT_ONCE = 16
ALIVE_SECONDS = 600.0
"""A claim whose newest sign of life is older counts as a dead one's."""
CARRIED = re.compile(r"carried/[0-9a-f]{32}")
"""A folder that was carried, as records and paths have it."""

_STAGE = re.compile(r"stages/([a-z_]+)/([0-9a-f]{16})/record\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Thing:
    """An object as the listing showed it."""

    bytes: int
    age: float


@dataclass
class FoundOutput(Output):
    """A stage's output in a bucket, or what attempts at it left."""

    nonce: str = ""
    bytes: int = 0
    blobs: tuple[str, ...] = ()
    carried_in: set[str] = field(default_factory=set[str])
    """Carried folders that its record names."""
    marks: tuple[str, ...] = ()
    """The days on which it was used."""


@dataclass
class BucketContents:
    """What lies in a place, as one listing and its records showed it."""

    things: dict[str, Thing]
    """Every object, in order of their paths."""
    outputs: dict[str, FoundOutput] = field(default_factory=dict[str, FoundOutput])
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

    def below(self, folder: str) -> dict[str, Thing]:
        """Return the objects of a folder."""
        first, last = bisect_left(self._paths, f"{folder}/"), bisect_left(self._paths, f"{folder}0")  # 0 is behind /
        return {path: self.things[path] for path in self._paths[first:last]}

    def bytes_below(self, folder: str) -> int:
        """Return the bytes of a folder's objects."""
        return sum(thing.bytes for thing in self.below(folder).values())

    def age(self, folder: str) -> float:
        """Return the seconds since the newest object of a folder was written."""
        return min((thing.age for thing in self.below(folder).values()), default=0.0)

    def is_made(self, key: str) -> bool:
        """Say whether a claim on an output gives signs of life, whatever its stage."""
        return any(name.endswith(f"-{key}") for name in self.alive)

    def needed_blobs(self, gone: set[str]) -> set[str]:
        """Return the blobs that a record names which is there, or was a moment ago."""
        blobs = {blob for output in self.outputs.values() if output.key not in gone for blob in output.blobs}
        blobs |= {blob for key, held in self.carried.items() if key not in gone for blob in held}
        blobs |= {record.file.blob for name, record in self.shared.items() if name not in gone}
        texts = (text for key, text in self.attempts.items() if key not in gone and f"attempts/{key}" not in gone)
        return blobs | {f"blobs/sha256/{digest[:2]}/{digest}" for text in texts for digest in _SHA256.findall(text)}


def look(work: InBucket, later: float = 0.0) -> BucketContents:
    """List a place and read its records; ages are those that there will be `later` seconds from now.

    Raises StorageError if it is no work place, IntegrityError where a record cannot be read.
    """
    contents = BucketContents(list_objects(work, later))
    if PLACE not in contents.things:
        raise StorageError(f"{work.store.uri} is no work place: it has no {PLACE}; give the one that runs were given")
    if "registry.json" in contents.things:
        raise StorageError(f"{work.store.uri} holds a registry, too, which needs its blobs: it is not collected")
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        _read_trees(work.store, contents, pool)
        _read_small(work.store, contents, pool)
    contents.alive = living_claims(work.store, contents)
    return contents


def list_objects(work: InBucket, later: float = 0.0, folder: str = "") -> dict[str, Thing]:
    """Return the objects of a place, or of a folder of it."""
    prefix = f"{work.place.prefix}/" if work.place.prefix else ""
    objects = open_objects(work.place).walk(f"{prefix}{folder}/" if folder else prefix)
    return {one.key.removeprefix(prefix): Thing(one.bytes, one.age + later) for one in objects}


def living_claims(store: Store, contents: BucketContents) -> dict[str, float]:
    """Return the claims whose holders live, and for how many seconds each is held: the most if unsure."""
    newest: dict[str, str] = {}
    for path in sorted(contents.below(CLAIMS)):
        newest[path.split("/")[1]] = path
    alive: dict[str, float] = {}
    for name, path in newest.items():
        if (age := contents.things[path].age) > ALIVE_SECONDS:
            continue
        try:
            beat = read_record(store, path, Beat)
        except IntegrityError:
            beat = Beat(holder="", who="", at="", seconds=WAITS_SECONDS)
        if beat is None:  # a newer one took its place while we looked, or it was given back
            alive[name] = WAITS_SECONDS
        elif not beat.ended:
            alive[name] = age + beat.seconds
    return alive


def _read_trees(store: Store, contents: BucketContents, pool: ThreadPoolExecutor) -> None:
    """Read the records of outputs, and of folders that were carried."""
    stages = [match for path in contents.things if (match := _STAGE.fullmatch(path))]
    for output in pool.map(lambda match: _output(store, match[1], match[2], contents), stages):
        if output:
            contents.outputs[output.key] = output
    carried = sorted({match[0] for path in contents.things if (match := CARRIED.match(path))})
    for key, tree in zip(carried, pool.map(lambda key: read_tree(store, key), carried), strict=True):
        contents.carried[key] = tuple(file.blob for file in tree.files) if tree else ()
        contents.trees |= {key: tree} if tree else {}


def _read_small(store: Store, contents: BucketContents, pool: ThreadPoolExecutor) -> None:
    """Read the records of shared files, and what attempts say; an attempt without an output may be resumed."""
    shared = [path for path in contents.below("shared") if path.endswith(".json")]
    records = pool.map(lambda path: read_record(store, path, SharedFile), shared)
    for path, record in zip(shared, records, strict=True):
        if record:
            contents.shared[path.removeprefix("shared/").removesuffix(".json")] = record
    for path in (path for path in contents.below("attempts") if path.count("/") > 1):
        contents.attempts.setdefault(path.split("/")[1], "")
    small = [path for path in contents.below("attempts") if path.endswith(".json")]
    for path, data in zip(small, pool.map(store.read, small), strict=True):
        contents.attempts[path.split("/")[1]] += (data or b"").decode("utf-8", "replace")
    for key in contents.attempts.keys() - contents.outputs.keys():
        trained = FoundOutput("train", key, used=-contents.age(f"attempts/{key}"), made=True)
        trained.bytes = contents.bytes_below(f"attempts/{key}")
        contents.outputs[key] = trained


def _output(store: Store, stage: str, key: str, contents: BucketContents) -> FoundOutput | None:
    """Read an output's record, and when it was used last; None if it is gone meanwhile."""
    output = FoundOutput(stage, key, made=True)
    if (tree := read_tree(store, output.path)) is None:
        return None
    contents.trees[output.path] = tree
    output.says(json.dumps(tree.artifact))
    output.carried_in = {*CARRIED.findall(json.dumps(tree.artifact))}
    output.nonce, output.blobs = tree.nonce, tuple(file.blob for file in tree.files)
    output.bytes = sum({file.sha256: file.bytes for file in tree.files}.values())
    if stage == "ingest":  # a record names its files for ever: none of them goes alone
        output.quarantined = any(file.bytes for file in tree.below("quarantine.jsonl"))
    marks = contents.below(f"used/{stage}/{key}")
    output.marks = tuple(sorted(path.rpartition("/")[2] for path in marks))
    # A mark is made once a day: it was used then, and perhaps until a day later.
    newest = min((thing.age - DAY for thing in marks.values()), default=float("inf"))
    record = contents.things[f"{output.path}/record.json"].age
    output.used, output.written = -max(min(newest, record), 0.0), -record
    return output
