"""Local jsonl, csv and parquet files: a path, a glob or a folder."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from ftlib.artifacts import FileVersion
from ftlib.config import Config
from ftlib.errors import DataError
from ftlib.row_files import COMPRESSED, SUFFIXES, pin_file, read_file
from ftlib.rows import BadRow, Row


class Files(Config):
    """Rows from local files, by suffix; `.jsonl.gz` and `.csv.gz` too.

    Files("rows.jsonl")         one file
    Files("rows/*.parquet")     a glob; `**` means any folders
    Files("rows/")              every .jsonl, .csv and .parquet in the folder and below; no names that start with . or _

    A relative path counts from the current folder.
    """

    kind: Literal["files"] = "files"
    path: str

    def pin(self) -> tuple[FileVersion, ...]:
        """Freeze the listing: every file with its size and sha256. Raises DataError if there is nothing to read."""
        return tuple(pin_file(path.absolute()) for path in self._listing())

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Read the pinned files in the order of their digests, so that names and folders do not matter."""
        for file in sorted(files, key=lambda file: file.sha256):
            yield from read_file(file, row_bytes)

    def _listing(self) -> list[Path]:
        path = Path(os.path.expanduser(self.path))  # Path's own raises for a user that is not there
        if path.is_dir():
            found = [p for p in sorted(path.rglob("*")) if p.is_file() and _is_rows(p) and not _hidden(p, path)]
            if not found:
                raise DataError(
                    f"{self.path}: no {', '.join(SUFFIXES)} file in this folder; name the one that is meant"
                )
            return found
        found = [path] if path.exists() else [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
        found = [p for p in found if p.is_file()]
        if not found:
            what = "no file matches this glob" if glob.has_magic(self.path) else "no such file or folder"
            raise DataError(f"{self.path}: {what} (looked in {Path.cwd()}); correct the source's path")
        for p in found:
            if not _is_rows(p):
                raise DataError(f"{p}: suffix {p.suffix!r}, allowed are {', '.join(SUFFIXES)}; convert or rename it")
        return found


def _is_rows(path: Path) -> bool:
    return path.name.lower().endswith((*SUFFIXES, *COMPRESSED))


def _hidden(path: Path, root: Path) -> bool:
    return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
