"""Choose the reader of a file by its name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ftlib.data.listed import FileVersion
from ftlib.data.row_files.delimited import read_csv
from ftlib.data.row_files.first_bytes import refuse_other_table
from ftlib.data.row_files.jsonl import read_jsonl
from ftlib.data.row_files.tables import read_parquet
from ftlib.data.row_files.text import COMPRESSIONS
from ftlib.data.rows import BadRow, Row
from ftlib.errors import DataError
from ftlib.fingerprint import file_digest

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")
COMPRESSED = tuple(suffix + compression for suffix in SUFFIXES[:3] for compression in COMPRESSIONS)


def pin_file(path: Path, uri: str | None = None) -> FileVersion:
    """Identify a file's bytes as they are now. Raises DataError if it cannot be read."""
    try:
        return FileVersion(uri=uri or str(path), bytes=path.stat().st_size, sha256=file_digest(path))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; make it readable or take it out of the source") from error


def read_file(
    file: FileVersion, row_bytes: int, drop: frozenset[str] = frozenset(), images: Sequence[str] = ()
) -> Iterator[Row | BadRow]:
    """Read a pinned local file by its suffix, in order, but for the columns to drop; bytes may stand in `images` only.

    Raises DataError if the file changed since it was pinned, is damaged as a whole, or unpacks to far more than it is.
    """
    name = file.uri.lower()
    if name.endswith(".parquet"):
        refuse_other_table(file)
        return read_parquet(file, row_bytes, drop, images)
    if name.endswith((".csv", *(f".csv{compression}" for compression in COMPRESSIONS))):
        return read_csv(file, row_bytes, drop)
    return read_jsonl(file, row_bytes, drop)
