"""What every storage can do, and which paths it takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, runtime_checkable

from ftlib.errors import StorageError


@runtime_checkable
class Store(Protocol):
    """Objects under relative paths with `/`. Nothing is cached: another process may have written a moment ago.

    Every call raises StorageError for what only a person can change, and TransientError once retries have not helped.
    """

    @property
    def uri(self) -> str:
        """Return where it is, without credentials."""
        ...

    @property
    def identity(self) -> str:
        """Return what tells it from every other store: two servers may have a bucket of one name."""
        return self.uri

    def read(self, path: str) -> bytes | None:
        """Return a small object's bytes, or None if there is none."""
        ...

    def read_range(self, path: str, start: int, count: int) -> bytes:
        """Return up to `count` bytes from byte `start` on: fewer at the object's end, none beyond it.

        Nothing is verified. Raises IntegrityError if there is no object.
        """
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a small object only if there is none, whole or not at all.

        False is not yet a loss: where the reply to our own write was lost, the retry finds our own object. Put a nonce
        in `data`, and read back to see whose it is.
        """
        ...

    def write(self, path: str, data: bytes) -> None:
        """Write a small object, replacing at once what is there: the last writer wins, so nothing is decided by it."""
        ...

    def put_file(self, source: Path, path: str, sha256: str) -> None:
        """Upload a file, replacing at once what is there. Raises IntegrityError if its bytes have another digest."""
        ...

    def get_file(self, path: str, target: Path, sha256: str) -> None:
        """Download a file; `target` appears only whole, and is not flushed: most copies are only looked at.

        Raises IntegrityError if the bytes have another digest.
        """
        ...

    def list(self, folder: str) -> list[str]:
        """Return the names directly in a folder, sorted, folders with a trailing `/`; empty if there is no folder."""
        ...

    def size(self, path: str) -> int | None:
        """Return an object's bytes, or None if there is none."""
        ...

    def discard(self, path: str) -> bool:
        """Delete an object nobody needs; False if our role may not, as a publisher's should not."""
        ...

    def leftovers(self, *, remove: bool) -> list[str]:
        """Return what writers that died left half-written, after removing it if asked to."""
        ...


class StoredObject(NamedTuple):
    """An object as a listing shows it."""

    key: str
    version: str
    """An opaque token that differs where the bytes may."""
    bytes: int
    age: float
    """Seconds since it was written, both by the server's clock."""


@runtime_checkable
class Objects(Protocol):
    """A bucket that others write to, under keys as they come: only read, and as it was listed."""

    def uri(self, key: str) -> str:
        """Return an object's URI."""
        ...

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every object whose key begins with `prefix`, in order of keys."""
        ...

    def copy(self, listed: StoredObject, target: BinaryIO | None) -> str:
        """Write an object to `target`, if there is one, and return its sha256.

        Raises DataError if it is no longer the version that was listed.
        """
        ...


def safe_relpath(path: str) -> str:
    """Return a relative path unchanged. Raises StorageError if it could name anything outside its folder.

    Paths come from manifests, and manifests from storage that others write.
    """
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts) or re.search(r'[\x00-\x1f\x7f\\:*?"<>|]', path):
        raise StorageError(
            f"{path!r} is not a safe path: allowed are names joined by '/', without '..', ':', a leading '/' or "
            "control characters"
        )
    return path
