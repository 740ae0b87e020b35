"""What makes parts in a bucket a checkpoint: numbered manifests, and descriptions with a digest for every few MiB."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, cast

from ftlib.config import Config
from ftlib.errors import ReglageError
from ftlib.fingerprint import file_digest
from ftlib.models.tensor_files import TensorSpan
from ftlib.storage.sealed_records import read_record
from ftlib.training.checkpoints.names import FOLDER
from ftlib.training.checkpoints.parts import Piece, Region
from ftlib.training.checkpoints.run_place import RunPlace

CHUNK_BYTES = 4 * 2**20
"""What has a digest of its own: the least that is read."""
MANIFESTS = f"{FOLDER}/manifests"


class Manifest(Config):
    """What makes a set of parts whole. It is sealed: one that was changed is no manifest."""

    schema_version: Literal[1] = 1
    fingerprint: str
    name: str
    """What it is: `step-00000120`."""
    folder: str
    """Where its parts are; empty where they were deleted."""
    files: dict[str, str] = {}
    """The sha256 of each rank's description, by name; a description has that of the rank's part."""
    facts: dict[str, Any] = {}
    kept: dict[str, str] = {}
    """The folders of the weights that a step's checkpoint promises, by what they are: `best-00000096`."""


class Description(Config):
    """One rank's part."""

    sha256: str
    bytes: int
    chunks: tuple[str, ...]
    """The sha256 of every `CHUNK_BYTES` of it, in order."""
    regions: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]
    """Whole, offset and shape of each tensor."""
    spans: dict[str, tuple[str, int, int]]
    """Type, first byte and bytes of each."""

    def pieces(self, file: Path) -> dict[str, Piece]:
        """Return what lies in a file with the part's bytes."""
        return {
            name: Piece(TensorSpan(name, dtype, self.regions[name][2], file, first, size), Region(*self.regions[name]))
            for name, (dtype, first, size) in self.spans.items()
        }


class Chunks:
    """Digests of what goes by, every few MiB."""

    def __init__(self) -> None:
        self.digests: list[str] = []
        self.bytes = 0
        self._running = hashlib.sha256()

    def heard(self, data: memoryview | bytes) -> None:
        """Take the next bytes."""
        rest = memoryview(data)
        while rest:
            room = CHUNK_BYTES - self.bytes % CHUNK_BYTES
            self._running.update(rest[:room])
            self.bytes += len(rest[:room])
            rest = rest[room:]
            if self.bytes % CHUNK_BYTES == 0:
                self.end()

    def end(self) -> None:
        """End the chunk that is begun."""
        self.digests.append(self._running.hexdigest())
        self._running = hashlib.sha256()


def saved_step_in(place: RunPlace) -> int:
    """Return the step that a run would resume from, going by its newest manifests; 0 if there is none."""
    for number in range(newest_number(place), 0, -1):
        with suppress(ReglageError):
            manifest = read_record(cast(Any, place.store), place.path(numbered(number)), Manifest)
            return int(manifest.name.partition("-")[2]) if manifest and manifest.folder else 0
    return 0


def newest_number(place: RunPlace) -> int:
    """Return the newest manifest's number, by asking for ever later ones, then between them; 0 if there is none."""
    there, absent = 0, 1
    while place.has(numbered(absent)):
        there, absent = absent, 2 * absent
    while absent - there > 1:
        middle = (there + absent) // 2
        there, absent = (middle, absent) if place.has(numbered(middle)) else (there, middle)
    return there


def numbered(number: int) -> str:
    """Return the name of a manifest by its number."""
    return f"{MANIFESTS}/{number:08d}.json"


def is_described(file: Path, description: Description) -> bool:
    """Say whether a file is there and has the bytes that a description says."""
    try:
        return file.stat().st_size == description.bytes and file_digest(file) == description.sha256
    except OSError:
        return False


def chunks_of(first: int, size: int) -> range:
    """Return the chunks that hold so many bytes, from the `first` on."""
    return range(first // CHUNK_BYTES, (first + size - 1) // CHUNK_BYTES + 1)


def are_right(data: bytes, digests: list[str]) -> bool:
    """Say whether the chunks of some bytes have these digests, in order."""
    pieces = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    return [hashlib.sha256(piece).hexdigest() for piece in pieces] == digests
