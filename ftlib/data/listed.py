"""Files as a source lists them, and the versions that were read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ftlib.config import Config
from ftlib.fingerprint import Identified, digest


class ListedFile(Config):
    """One file as a listing shows it, before a byte of it is read."""

    uri: str
    version: str
    """An opaque token that differs where the bytes may: compared for equality, never for order."""
    bytes: int
    settled: bool = True
    """False while it may still be written: it waits for a later run."""

    @property
    def identity(self) -> tuple[str, str, int]:
        """Return what makes it the same file at two times."""
        return self.uri, self.version, self.bytes


class PinnedAlready(NamedTuple):
    """What an earlier run read of files that may still be the same."""

    sha256: Mapping[tuple[str, str, int], str]
    """By the files' identity."""
    at: float
    """When that was, in seconds since 1970."""


class FileVersion(Identified):
    """One input file as it was when the run started; it counts by its place and its bytes."""

    uri: str
    bytes: int
    sha256: str
    version: str = ""
    """The listing's token for these bytes, with which a store can be asked for them and no others."""

    def digest(self) -> str:
        """Return the digest of place, size and sha256: a file that was only touched is the same."""
        return digest([self.uri, self.bytes, self.sha256])
