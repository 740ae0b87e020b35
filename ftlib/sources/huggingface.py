"""Hugging Face datasets, saved on disk or by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ftlib.artifacts import FileVersion, ListedFile, PinnedAlready
from ftlib.config import Config
from ftlib.errors import DataError, RecipeError, TransientError, first_line
from ftlib.fingerprint import digest
from ftlib.listing import list_file, pin_listed
from ftlib.rows import BadRow, Row, table_row

_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
_BATCH = 1000


class HuggingFace(Config):
    """Rows from `datasets`: a folder made by `save_to_disk`, a folder it can load, or a hub name at a pinned revision.

    Class labels become their names. Rows are streamed: nothing is left in a cache that could be stale tomorrow, and
    no code from a dataset runs.
    """

    kind: Literal["huggingface"] = "huggingface"
    path: str
    split: str = "train"
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """A commit hash (40 hex digits); required for a name on the hub, since a branch gives other rows tomorrow."""

    def list(self) -> tuple[ListedFile, ...]:
        """List what is read: a folder's files, or the hub's name with its revision."""
        folder = self._folder()
        if folder is None:
            return (ListedFile(uri=f"hf://datasets/{self.path}@{self.revision}", version=str(self.revision), bytes=0),)
        paths = [path.absolute() for path in sorted(folder.rglob("*")) if not path.name.endswith(".lock")]
        found = tuple(file for path in paths if (file := list_file(path)))
        if not found:
            raise DataError(f"{self.path}: an empty folder; name one made by save_to_disk")
        return found

    def pin(
        self, listed: Sequence[ListedFile] | None = None, known: PinnedAlready | None = None
    ) -> tuple[FileVersion, ...]:
        """Freeze a listing, by default that of now: a folder's files with their sha256, or the hub's revision."""
        listed = self.list() if listed is None else listed
        if self._folder() is None:
            sha256 = digest([self.path, self.revision])
            return tuple(FileVersion(uri=f.uri, bytes=0, sha256=sha256, version=f.version) for f in listed)
        return tuple(pin_listed(file, known) for file in listed)

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Read the split's rows in order. Raises DataError if the folder changed since it was pinned."""
        folder = self._folder()
        rows = self._open(folder)
        labels = {name: feature for name, feature in (rows.features or {}).items() if hasattr(feature, "int2str")}
        tables = rows.with_format("arrow").iter(_BATCH)
        number, size = 0, sum(file.bytes for file in files) // max(getattr(rows, "num_rows", 0), 1)
        for table in tables:
            for cells in table.to_pylist():
                number += 1
                for name, feature in labels.items():
                    if cells[name] is not None and cells[name] >= 0:  # -1 is how `datasets` writes "no label"
                        cells[name] = feature.int2str(cells[name])
                    else:
                        cells[name] = None
                yield table_row(f"{self.path}#{self.split}", number, min(size, row_bytes), cells)
        if folder is not None and _digests(self.pin()) != _digests(files):
            raise DataError(
                f"{self.path} changed while it was read; let no one write to it during a run, and run again"
            )

    def _folder(self) -> Path | None:
        folder = Path(os.path.expanduser(self.path))
        if folder.is_dir():
            return folder
        if self.path.startswith((".", "/", "~")) or self.path.count("/") > 1:
            raise DataError(f"{self.path}: no such folder (looked in {Path.cwd()}); correct the source's path")
        if self.revision is None:
            raise RecipeError(
                f"{self.path} is no folder here, and as a name on the hub it needs `revision`: give a commit hash "
                "(40 hex digits), since a branch gives other rows tomorrow"
            )
        return None

    def _open(self, folder: Path | None) -> Any:
        from datasets import Dataset, DatasetDict, load_dataset, load_from_disk

        try:
            if folder is None or not any((folder / name).is_file() for name in _SAVED):
                return load_dataset(self.path, split=self.split, revision=self.revision, streaming=True)
            saved: Dataset | DatasetDict = load_from_disk(str(folder))
        except (ConnectionError, TimeoutError) as error:
            raise TransientError(f"{self.path}: the hub does not answer: {first_line(error)}") from error
        except (OSError, ValueError) as error:  # DatasetNotFoundError is a FileNotFoundError
            raise DataError(f"{self.path}: not loadable as a dataset: {first_line(error)}") from error
        if isinstance(saved, Dataset):
            return saved
        if self.split in saved:
            return saved[self.split]
        raise DataError(f"{self.path}: no split {self.split!r}; the splits are {', '.join(map(str, saved))}")


def _digests(files: Iterable[FileVersion]) -> list[str]:
    return sorted(file.digest() for file in files)
