"""Lines of a pinned text file: decompressed, hashed on the way, and never longer in memory than a row may be."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from ftlib.data.listed import FileVersion
from ftlib.data.row_files.budget import Budget, compare
from ftlib.data.row_files.first_bytes import BOM, refuse_other_packing, refuse_other_text
from ftlib.errors import DataError, first_line

COMPRESSIONS = (".gz", ".zst")

_BUFFER = 1 << 20
_HEAD = 4 << 20
"""What is looked at before the first row, at most."""
_MARKS = 4096
"""In which a format's mark stands."""


Line = tuple[int, int, bytes | None]
"""A line's number, counted from 1, its size, and its bytes; None if it is longer than allowed and was never held."""


def bounded_lines(stream: IO[bytes], limit: int, first: int = 1) -> Iterator[Line]:
    """Yield lines; one that is longer than `limit` is skipped in pieces, so that it never lies in memory.

    `first` is the number of the stream's first line in its file.
    """
    number = first - 1
    while data := stream.readline(limit + 2):
        number += 1
        if number == 1:
            data = data.removeprefix(BOM)
        size = len(data)
        if size <= limit or len(data.rstrip(b"\r\n")) <= limit:
            yield number, size, data
            continue
        while data and not data.endswith(b"\n"):
            data = stream.readline(1 << 16)
            size += len(data)
        yield number, size, None


class Opened(NamedTuple):
    """A text file that can be read."""

    stream: IO[bytes]
    head: bytes
    """Its first bytes: more than a row may have, or all of them."""
    whole: bool
    """Whether the head is all there is."""


@contextmanager
def open_text(file: FileVersion, row_bytes: int) -> Generator[Opened]:
    """Open a text file, decompressed; after the block, check that its bytes are those that were pinned.

    Raises DataError for a file that is damaged, of another known format, or not UTF-8 in lines.
    """
    try:
        with Path(file.uri).open("rb", buffering=0) as raw:
            hashed = _Hashed(raw)
            stream = io.BufferedReader(hashed, _BUFFER)
            refuse_other_packing(stream.peek(_MARKS)[:_MARKS], file.uri)
            unpacked, size = _decompressed(stream, file), min(row_bytes + len("\r\n") + 1, _HEAD)
            head = unpacked.read(size)
            refuse_other_text(head, file.uri)
            whole = io.BufferedReader(_Again(head, unpacked), _BUFFER)
            yield Opened(cast("IO[bytes]", whole), head, whole=len(head) < size)
            while stream.read(_BUFFER):
                pass
            compare(file, hashed.sha256.hexdigest())
    except (EOFError, zlib.error) as error:
        raise _damaged(file, error) from error
    except OSError as error:
        if error.errno is None:  # gzip and pyarrow say so of bytes they cannot unpack, the system says a number
            raise _damaged(file, error) from error
        raise DataError(f"{file.uri}: {error.strerror}; make it readable or take it out of the source") from error


def _damaged(file: FileVersion, error: Exception) -> DataError:
    kind = "gzip" if file.uri.lower().endswith(".gz") else "zstd"
    return DataError(f"{file.uri} is a damaged {kind} file: {first_line(error)}; write it again")


def _decompressed(stream: io.BufferedReader[Any], file: FileVersion) -> io.BufferedReader[Any]:
    name = file.uri.lower()
    if name.endswith(".gz"):
        return io.BufferedReader(_Budgeted(gzip.GzipFile(fileobj=stream), Budget(file)), _BUFFER)
    if name.endswith(".zst"):
        import pyarrow as pa

        unpacking = pa.CompressedInputStream(pa.PythonFile(stream), "zstd")
        return io.BufferedReader(_Budgeted(unpacking, Budget(file)), _BUFFER)
    return stream


class _Again(io.RawIOBase):
    """Gives back what was read of a stream, then the rest of it."""

    def __init__(self, head: bytes, rest: io.BufferedReader[Any]) -> None:
        self._head = memoryview(head)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._head:
            return self._rest.readinto1(buffer)
        part = self._head[: len(buffer)]
        buffer[: len(part)] = part
        self._head = self._head[len(part) :]
        return len(part)


class _Hashed(io.RawIOBase):
    """Passes bytes on and hashes them."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._raw.readinto(buffer)
        self.sha256.update(memoryview(buffer)[:count])
        return count


class _Budgeted(io.RawIOBase):
    """Passes unpacked bytes on and counts them."""

    def __init__(self, unpacking: Any, budget: Budget) -> None:
        self._unpacking = unpacking
        self._budget = budget

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._unpacking.readinto(buffer)
        self._budget.take(count)
        return count
