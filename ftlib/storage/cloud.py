"""Storage in a bucket that fsspec's filesystem of its service reaches: one store and one listing for all of them.

What differs is in a file for each service: how a request is written, and what its answers mean.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from typing_extensions import override

from ftlib.errors import DataError, IntegrityError, StorageError
from ftlib.storage.files import appearing, expect, local_errors, missing
from ftlib.storage.in_order import in_order
from ftlib.storage.patience import Patient
from ftlib.storage.store import Objects, Store, StoredObject, safe_relpath

PART_BYTES = 8 * 2**20
"""Of an upload or a download: PARTS_AT_ONCE of them are in memory for each file. GCS wants multiples of 256 KiB."""
PARTS_AT_ONCE = 8
NAMES_AT_ONCE = 1000


class Page(NamedTuple):
    """A part of a listing."""

    objects: list[StoredObject]
    folders: list[str]
    """What keys have in common up to the delimiter, with it."""


class CloudBucket(Patient):
    """A bucket of a service. Keys go to it as they are: what means something in a URI is part of a name here.

    A key that is not there raises FileNotFoundError, a bucket that is not there StorageError.
    """

    root: str
    """What stands before every key's URI: gs://bucket/."""
    most_parts: int
    """How many an upload may have."""

    @abstractmethod
    def get(self, key: str, span: range | None = None, version: str | None = None) -> bytes:
        """Return an object's bytes, or those of a span: fewer at its end.

        Raises EOFError for a span beyond the end, and FileExistsError if the version is another than is asked for.
        """

    @abstractmethod
    def put(self, key: str, data: bytes, *, create: bool = False) -> None:
        """Write an object in one request. Raises FileExistsError if it is to be created and is there."""

    @abstractmethod
    def upload(self, key: str, pieces: Iterator[bytes], size: int, sha256: str) -> None:
        """Write a large object in parts; it appears once the last piece was taken, or not at all."""

    @abstractmethod
    def size(self, key: str) -> int:
        """Return an object's bytes."""

    @abstractmethod
    def pages(self, prefix: str, delimiter: str | None = None) -> Iterator[Page]:
        """Yield a listing in parts, in order of keys, as it is now."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Delete an object."""


class CloudStore(Store):
    """A prefix of such a bucket."""

    def __init__(self, bucket: CloudBucket, prefix: str = "") -> None:
        self.client = bucket
        self.prefix = prefix.strip("/")

    @property
    def uri(self) -> str:
        """Return where it is, without a slash behind it."""
        return f"{self.client.root}{self.prefix}".rstrip("/")

    @override
    def read(self, path: str) -> bytes | None:
        try:
            return self.client.get(self._key(path))
        except FileNotFoundError:
            return None

    @override
    def read_range(self, path: str, start: int, count: int) -> bytes:
        try:
            return self.client.get(self._key(path), range(start, start + count)) if count > 0 else b""
        except EOFError:
            return b""
        except FileNotFoundError:
            raise IntegrityError(missing(f"{self.uri}/{path}")) from None

    @override
    def create(self, path: str, data: bytes) -> bool:
        try:
            self.client.put(self._key(path), data, create=True)
        except FileExistsError:
            return False
        return True

    @override
    def write(self, path: str, data: bytes) -> None:
        self.client.put(self._key(path), data)

    @override
    def put_file(self, source: Path, path: str, sha256: str) -> None:
        size = source.stat().st_size
        with source.open("rb") as stream:
            if size <= PART_BYTES:
                data = stream.read()
                expect(sha256, hashlib.sha256(data).hexdigest(), str(source))
                self.client.put(self._key(path), data)
            else:
                part = part_bytes(size, self.client.most_parts)
                self.client.upload(self._key(path), _pieces(stream, part, size, sha256), size, sha256)

    @override
    def get_file(self, path: str, target: Path, sha256: str) -> None:
        where, key = f"{self.uri}/{path}", self._key(path)
        size = self.size(path)
        if size is None:
            raise IntegrityError(missing(where))

        def get(first: int) -> bytes:
            try:
                return self.client.get(key, range(first, min(first + PART_BYTES, size)))
            except (EOFError, FileNotFoundError):
                raise IntegrityError(f"{where} was replaced or removed while it was read; run again") from None

        running = hashlib.sha256()
        with local_errors(target, size), appearing(target) as stream:
            for data in in_order(get, range(0, size, PART_BYTES), PARTS_AT_ONCE):
                running.update(data)
                stream.write(data)
            expect(sha256, running.hexdigest(), where)

    @override
    def list(self, folder: str) -> list[str]:
        prefix = f"{self._key(folder)}/"
        names: list[str] = []
        for page in self.client.pages(prefix, "/"):
            names += [stored.key.removeprefix(prefix) for stored in page.objects]
            names += [name.removeprefix(prefix) for name in page.folders]
        return sorted(name for name in names if name)

    @override
    def size(self, path: str) -> int | None:
        try:
            return self.client.size(self._key(path))
        except FileNotFoundError:
            return None

    @override
    def discard(self, path: str) -> bool:
        try:
            self.client.delete(self._key(path))
        except FileNotFoundError:
            return True
        except StorageError:
            return False
        return True

    def leftovers(self, *, remove: bool) -> list[str]:
        """Return nothing: the services themselves forget uploads that were never finished, after a week."""
        return []

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{safe_relpath(path)}".lstrip("/")


class CloudObjects(Objects):
    """Such a bucket, which others write to."""

    def __init__(self, bucket: CloudBucket) -> None:
        self.client = bucket

    @override
    def uri(self, key: str) -> str:
        return f"{self.client.root}{key}"

    @override
    def walk(self, prefix: str) -> Iterator[StoredObject]:
        for page in self.client.pages(prefix):
            yield from page.objects

    @override
    def copy(self, listed: StoredObject, target: BinaryIO | None) -> str:
        """Copy the version that was listed, in parts each of which is asked for by it."""

        def get(first: int) -> bytes:
            try:
                return self.client.get(
                    listed.key, range(first, min(first + PART_BYTES, listed.bytes)), version=listed.version
                )
            except (EOFError, FileExistsError, FileNotFoundError):
                raise DataError(
                    f"{self.uri(listed.key)} changed or vanished while it was read; let no one write to it during a "
                    "run, and run again"
                ) from None

        running = hashlib.sha256()
        for data in in_order(get, range(0, listed.bytes, PART_BYTES), PARTS_AT_ONCE):
            running.update(data)
            if target is not None:
                target.write(data)
        return running.hexdigest()


def part_bytes(size: int, most_parts: int) -> int:
    """Return how large an upload's parts are: a whole number of PART_BYTES, so that there are not too many."""
    return PART_BYTES * max(1, -(-size // (PART_BYTES * most_parts)))


def _pieces(stream: BinaryIO, part: int, size: int, sha256: str) -> Iterator[bytes]:
    """Yield a file in parts, the last one only if all of them have the digest that was recorded."""
    running = hashlib.sha256()
    left = size
    while left > 0:
        data = stream.read(min(part, left))
        running.update(data)
        left = left - len(data) if data else 0
        if not left:
            expect(sha256, running.hexdigest(), stream.name)
        yield data
