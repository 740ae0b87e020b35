"""The files of a log, in a folder or a bucket, read record by record: what is damaged is counted, never fatal."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ftlib.config import Config, user_path
from ftlib.errors import DataError, StorageError
from ftlib.storage import Place, open_objects
from ftlib.storage.store import StoredObject

LONGEST_LINE = 4 * 2**20
"""Bytes of a line, so that a log without line ends takes no more memory than one with them."""
_ROWS_AT_ONCE = 4096
_LINES = (".jsonl", ".ndjson")
_TABLE = ".parquet"


class Damage(Config):
    """What could not be read for one reason."""

    count: int
    first: str
    """Where the first one by name is."""


@dataclass
class Damages:
    """Counts what could not be read, by reason; of each it keeps the place that comes first by name."""

    found: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])

    def add(self, reason: str, where: str) -> None:
        """Count one."""
        count, first = self.found.get(reason, (0, where))
        self.found[reason] = (count + 1, min(first, where))

    def beside(self, others: Damages, *, of_the_same_lines: bool) -> Damages:
        """Return both; what was found twice of the same lines counts once."""
        both = Damages(dict(self.found))
        for reason, (count, first) in others.found.items():
            had, where = both.found.get(reason, (0, first))
            both.found[reason] = (max(had, count) if of_the_same_lines else had + count, min(where, first))
        return both

    def told(self) -> dict[str, Damage]:
        """Return them, the most frequent first."""
        ordered = sorted(self.found.items(), key=lambda one: (-one[1][0], one[0]))
        return {reason: Damage(count=count, first=first) for reason, (count, first) in ordered}


@dataclass(frozen=True)
class LogFile:
    """One file as it was listed."""

    name: str
    """Relative to the place."""
    age: float
    """Seconds since it was written, by the clock that dated it."""
    fetch: Callable[[BinaryIO], object] | None
    """Copies an object of a bucket; None for a file."""
    path: Path | None

    @contextmanager
    def local(self) -> Generator[Path]:
        """Give it as a file of this machine."""
        if self.fetch is None:
            assert self.path is not None
            yield self.path
            return
        with tempfile.NamedTemporaryFile(suffix=Path(self.name).suffix) as copy:
            self.fetch(copy)  # pyright: ignore[reportArgumentType]
            copy.flush()
            yield Path(copy.name)


def list_log(place: Place) -> list[LogFile]:
    """List the files below a place, by name; hidden and unfinished ones are left out.

    Raises StorageError for a place that cannot be listed; one that is not there has no files.
    """
    files = _in_bucket(place) if place.remote else _in_folder(user_path(place.key).absolute())
    return sorted(files, key=lambda file: file.name)


def _in_folder(folder: Path) -> Iterator[LogFile]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise StorageError(f"{error.filename}: {error.strerror}; make it readable, or name another log") from error

    now = time.time()
    if folder.is_file():
        raise StorageError(f"{folder} is a file; a log's place is the folder that its files are in")
    for below, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in names:
            path = Path(below, name)
            if not _hidden(name) and path.is_file():
                yield LogFile(path.relative_to(folder).as_posix(), now - path.stat().st_ctime, None, path)


def _in_bucket(place: Place) -> Iterator[LogFile]:
    bucket, prefix = open_objects(place), place.folder()
    for stored in bucket.walk(prefix):
        name = stored.key.removeprefix(prefix)
        if name and not name.endswith("/") and not any(map(_hidden, name.split("/"))):

            def fetch(target: BinaryIO, stored: StoredObject = stored) -> str:
                return bucket.copy(stored, target)

            yield LogFile(name, stored.age, fetch, None)


def _hidden(name: str) -> bool:
    return name.startswith((".", "_")) or name.endswith(".tmp")


def records(file: LogFile, wanted: tuple[str, ...], damages: Damages) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a file's records with where each is; of a table only the wanted columns. The rest goes to `damages`."""
    suffix = Path(file.name).suffix.lower()
    if suffix not in (*_LINES, _TABLE):
        damages.add(f"a file that is neither {', '.join(_LINES)} nor {_TABLE}", file.name)
        return
    try:
        with file.local() as path:
            yield from _lines(path, file.name, damages) if suffix in _LINES else _rows(path, file.name, wanted, damages)
    except FileNotFoundError:
        damages.add("a file that went away while the log was read", file.name)
    except (OSError, DataError) as error:
        damages.add(f"a file that could not be read ({type(error).__name__})", file.name)


def _lines(path: Path, name: str, damages: Damages) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of JSON lines, each line read only as far as one may be long."""
    with path.open("rb") as stream:
        number = 0
        while line := stream.readline(LONGEST_LINE + 1):
            number += 1
            where = f"{name}:{number}"
            if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                damages.add(f"a line of more than {LONGEST_LINE // 2**20} MiB", where)
                while (more := stream.readline(LONGEST_LINE)) and not more.endswith(b"\n"):
                    pass
                continue
            if line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                damages.add("a line that is no JSON", where)
                continue
            if isinstance(value, dict):
                yield where, value  # pyright: ignore[reportUnknownArgumentType]
            else:
                damages.add("a line that is no JSON object", where)


def _rows(path: Path, name: str, wanted: tuple[str, ...], damages: Damages) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a table's rows block by block, without the cells that are null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            columns = [column for column in table.schema_arrow.names if column in wanted]
            for batch in table.iter_batches(_ROWS_AT_ONCE, columns=columns):
                rows = batch.to_pylist() if columns else [{}] * batch.num_rows
                for row in rows:
                    number += 1
                    # A table has a cell for every column: an absent field is null there.
                    yield f"{name}:{number}", {key: value for key, value in row.items() if value is not None}
    except (pa.ArrowException, OSError, ValueError) as error:
        damages.add(f"a damaged parquet file ({type(error).__name__})", name)
