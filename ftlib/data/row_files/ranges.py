"""Lines of a large file in ranges that are read apart: surveyed once, hashed, and compared when they are read."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from ftlib.config import Config
from ftlib.data.listed import FileVersion
from ftlib.data.row_files.documents import refuse_document
from ftlib.data.row_files.jsonl import rows_of_lines
from ftlib.data.row_files.text import bounded_lines, open_text
from ftlib.data.rows import BadRow, Row
from ftlib.errors import DataError

_PIECE = 1 << 20


class LineRange(Config):
    """Whole lines of a file that is not compressed."""

    file: FileVersion
    start: int
    stop: int
    first_line: int
    """The number of the first one in the file."""
    digest: str
    """Of its bytes."""


def survey_lines(file: FileVersion, row_bytes: int, least: int) -> list[LineRange]:
    """Cut a file of lines into ranges of at least so many bytes, each ending with a line.

    Raises DataError for a file that changed since it was pinned, or is none of JSON in lines.
    """
    ranges: list[LineRange] = []
    start, first_line = 0, 1
    position, line, hashed = 0, 1, _hash()
    with open_text(file, row_bytes) as opened:
        refuse_document(opened, file.uri, row_bytes)
        while piece := opened.stream.read(_PIECE):
            begin = 0
            while (end := piece.find(b"\n", max(begin, start + least - position - 1)) + 1) > 0:
                hashed.update(memoryview(piece)[begin:end])
                line += piece.count(b"\n", begin, end)
                ranges.append(_range(file, start, position + end, first_line, hashed))
                start, first_line, hashed, begin = position + end, line, _hash(), end
            hashed.update(memoryview(piece)[begin:])
            line += piece.count(b"\n", begin)
            position += len(piece)
    if position > start or not ranges:
        ranges.append(_range(file, start, position, first_line, hashed))
    return ranges


def read_lines(lines: LineRange, row_bytes: int, drop: frozenset[str] = frozenset()) -> Iterator[Row | BadRow]:
    """Read the rows of a range of JSON lines. Raises DataError if its bytes are not those that were surveyed."""
    uri = lines.file.uri
    try:
        with Path(uri).open("rb") as raw:
            raw.seek(lines.start)
            ranged = _Ranged(raw, lines.stop - lines.start)
            stream = cast("IO[bytes]", io.BufferedReader(ranged, _PIECE))
            yield from rows_of_lines(bounded_lines(stream, row_bytes, lines.first_line), uri, row_bytes, drop)
    except OSError as error:
        raise DataError(f"{uri}: {error.strerror}; make it readable or take it out of the source") from error
    if ranged.hashed.hexdigest() != lines.digest:
        raise DataError(f"{uri} changed while it was read; let no one write to it during a run, and run again")


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _range(file: FileVersion, start: int, stop: int, first_line: int, hashed: hashlib.blake2b) -> LineRange:
    return LineRange(file=file, start=start, stop=stop, first_line=first_line, digest=hashed.hexdigest())


class _Ranged(io.RawIOBase):
    """So many bytes of a file, hashed as they pass."""

    def __init__(self, raw: IO[bytes], size: int) -> None:
        self._raw = raw
        self._left = size
        self.hashed = _hash()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        data = self._raw.read(min(len(buffer), self._left))
        self.hashed.update(data)
        self._left -= len(data)
        buffer[: len(data)] = data
        return len(data)
