"""Hugging Face datasets, saved on disk or by name."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from msgspec import structs
from pydantic import Field
from typing_extensions import override

from ftlib.config import user_path
from ftlib.data.images.columns import no_files, taken_from, with_images
from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.row_files import COMPRESSED, SUFFIXES, pin_file
from ftlib.data.row_files.cells import rows_of
from ftlib.data.row_files.class_names import namers, stored_features
from ftlib.data.row_files.delimited import read_csv
from ftlib.data.row_files.jsonl import read_json
from ftlib.data.row_files.tables import read_parquet
from ftlib.data.rows import BadRow, Row
from ftlib.data.sources.base import SourceBase
from ftlib.data.sources.listing import FileStatus, list_folder, once, pin_listed
from ftlib.errors import DataError, RecipeError, TransientError, first_line
from ftlib.fingerprint import digest

_SAVED = ("dataset_info.json", "dataset_dict.json", "state.json")
_BATCH, _IMAGES = 1000, 16
"""Rows that are read at a time, and rows with images."""
_OWN_WORDS = frozenset(("name", "version", "data_dir", "data_files", "description", "sep", "delimiter"))
"""What the builder of a plain folder may say of its files, that our readers do as well."""

_Reader = Callable[[FileVersion, int], Iterator[Row | BadRow]]


class HuggingFace(SourceBase):
    """Rows from `datasets`: a folder made by `save_to_disk`, a folder it can load, or a hub name at a pinned revision.

    Class labels become their names, in lists and structs too. Nothing is left in a cache that could be stale tomorrow,
    and no code from a dataset runs. `datasets` says which files of a folder are a split; csv, JSON and parquet without
    features of their own are read as `kind: files` reads them, so that `NA` and `007` stay what they are.
    """

    kind: Literal["huggingface"] = "huggingface"
    path: str
    """A folder, or the name of a dataset on the hub."""
    split: str = "train"
    """Which of the source's own splits is read; the recipe's splits are made of its rows."""
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")
    """A commit hash (40 hex digits); required for a name on the hub, since a branch gives other rows tomorrow."""
    drop_columns: tuple[str, ...] = ()
    """Columns that nobody reads: they are left out before a row is judged."""
    images: tuple[str, ...] = ()
    """Columns that hold images: bytes as `datasets` stores them, or base64."""

    introduced: ClassVar[Mapping[str, object]] = {"images": ()}

    @property
    @override
    def image_columns(self) -> tuple[str, ...]:
        return self.images

    @property
    @override
    def hub_name(self) -> str | None:
        return self.path if self.revision else None

    def list(self) -> tuple[ListedFile, ...]:
        """List what is read: a folder's files, or the hub's name with its revision."""
        folder = self._folder()
        if folder is None:
            return (ListedFile(uri=f"hf://datasets/{self.path}@{self.revision}", version=str(self.revision), bytes=0),)
        files = _held(folder)
        if not files:
            raise DataError(f"{self.path}: an empty folder; name one made by save_to_disk")
        return tuple(ListedFile(uri=file.uri, version=file.version, bytes=file.bytes) for file in files)

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
        return (with_images(row, self.images, no_files) for row in self._rows(files, row_bytes))

    def _rows(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        folder = self._folder()
        if folder is not None and any((folder / name).is_file() for name in _SAVED):
            yield from self._stream(self._saved(folder), files, row_bytes)
        elif folder is not None:
            with _links(_held(folder), folder) as staged:
                yield from self._built(str(staged), folder, files, row_bytes)
        else:
            yield from self._built(self.path, None, files, row_bytes)
        if folder is not None and _digests(self.pin()) != _digests(files):
            raise DataError(
                f"{self.path} changed while it was read; let no one write to it during a run, and run again"
            )

    def _folder(self) -> Path | None:
        folder = user_path(self.path)
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

    def _saved(self, folder: Path) -> Any:
        from datasets import Dataset, DatasetDict, load_from_disk

        with self._loading():
            saved: Dataset | DatasetDict = load_from_disk(str(folder))
        if isinstance(saved, Dataset):
            return saved
        if self.split in saved:
            return saved[self.split]
        raise DataError(f"{self.path}: no split {self.split!r}; the splits are {', '.join(map(str, saved))}")

    def _built(
        self, path: str, folder: Path | None, files: Sequence[FileVersion], row_bytes: int
    ) -> Iterator[Row | BadRow]:
        """Read what `datasets` would build, by our own readers where they know all that its builder says."""
        from datasets import load_dataset_builder

        with self._loading(path):
            builder = load_dataset_builder(path, revision=self.revision)
            splits: dict[str, list[str]] = {str(k): list(v) for k, v in (builder.config.data_files or {}).items()}
        if folder is not None:
            self._check_left_out(Path(path), splits)
        reader = _own_reader(builder, frozenset(self.drop_columns), self.images)
        if reader is not None and self.split in splits and folder is not None:
            pinned = {file.uri: file for file in files}
            named = [str(folder.absolute() / Path(name).relative_to(path)) for name in splits[self.split]]
            if gone := [name for name in named if name not in pinned]:
                raise DataError(f"{gone[0]} came while the folder was read; let no one write to it, and run again")
            for file in sorted((pinned[name] for name in named), key=lambda file: file.sha256):
                yield from reader(file, row_bytes)
        elif reader is not None and self.split in splits and not _is_parquet(builder):
            for name in splits[self.split]:
                yield from self._copied(name, reader, row_bytes)
        else:
            with self._loading(path):
                _keep_words(builder, self.split)
                rows = builder.as_streaming_dataset(split=self.split)
            yield from self._stream(rows, files, row_bytes)

    def _check_left_out(self, staged: Path, splits: dict[str, list[str]]) -> None:
        """Raise DataError if `datasets` passes over files of rows, but for a card that says which files it has."""
        read = {name for names in splits.values() for name in names}
        rows = (
            path for path in sorted(staged.rglob("*")) if path.name.lower().endswith((*SUFFIXES, *COMPRESSED, ".tsv"))
        )
        visible = (path for path in rows if not any(p.startswith((".", "__")) for p in path.relative_to(staged).parts))
        left = [path.relative_to(staged).as_posix() for path in visible if str(path) not in read]
        if splits and left and not (staged / "README.md").is_file():
            raise DataError(
                f"{self.path}: `datasets` reads {', '.join(splits)} here and leaves out {', '.join(left[:3])}; move "
                "them away, name them after a split, or read the folder by kind: files"
            )

    def _copied(self, name: str, reader: _Reader, row_bytes: int) -> Iterator[Row | BadRow]:
        """Read a file of the hub through a copy on this machine's disk."""
        from huggingface_hub import HfFileSystem

        with tempfile.TemporaryDirectory(prefix="reglage-") as folder:
            copy = Path(folder, Path(name).name)
            with self._loading():
                HfFileSystem().get_file(name, str(copy))
            for row in reader(pin_file(copy), row_bytes):
                yield structs.replace(row, uri=name) if isinstance(row, Row) else replace(row, uri=name)

    def _stream(self, rows: Any, files: Sequence[FileVersion], row_bytes: int) -> Iterator[Row | BadRow]:
        number, size = 0, sum(file.bytes for file in files) // max(getattr(rows, "num_rows", 0), 1)
        features = rows.features.to_dict() if rows.features else {}
        tables = rows.with_format("arrow").iter(_IMAGES if self.images else _BATCH)
        while True:
            with self._loading():
                table = next(tables, None)
            if table is None:
                return
            kept = table.select([name for name in table.column_names if name not in self.drop_columns])
            classes = {**namers(features or stored_features(table.schema.metadata)), **taken_from(self.images)}
            for batch in kept.combine_chunks().to_batches():
                yield from rows_of(batch, classes, f"{self.path}#{self.split}", number, min(size, row_bytes))
                number += batch.num_rows

    @contextmanager
    def _loading(self, shown: str = "") -> Generator[None]:
        """Say in one line what `datasets` raises, by the path that the user knows."""
        from datasets.exceptions import DatasetsError

        try:
            yield
        except (ConnectionError, TimeoutError) as error:
            raise TransientError(
                f"{self.path}: the hub does not answer: {first_line(error)}; try again later"
            ) from error
        except (OSError, ValueError, ArithmeticError, LookupError, TypeError, DatasetsError) as error:
            reason = first_line(error).replace(shown or self.path, self.path)
            raise DataError(
                f"{self.path}: not loadable as a dataset: {reason}; correct its path or revision"
            ) from error


def _held(folder: Path) -> Sequence[FileStatus]:
    return once(file for file in list_folder(folder) if not file.uri.endswith(".lock"))


@contextmanager
def _links(files: Iterable[FileStatus], folder: Path) -> Generator[Path]:
    """Give a folder of links to these files, so that what `datasets` finds is what was listed.

    By itself it takes brackets in a path for a pattern, and passes by what links lead to.
    """
    with tempfile.TemporaryDirectory(prefix="reglage-") as name:
        staged = Path(name).resolve()
        for file in files:
            link = staged / Path(file.uri).relative_to(folder.absolute())
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.real)
        yield staged


def _own_reader(builder: Any, drop: frozenset[str], images: Sequence[str]) -> _Reader | None:
    """Return the reader that reads as `kind: files` does; None where features or options say more than it knows."""
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json

    config = builder.config
    usual = type(config)()
    changed = [f.name for f in fields(config) if getattr(config, f.name) != getattr(usual, f.name)]
    if builder.info.features is not None or not _OWN_WORDS.issuperset(changed):
        return None
    if isinstance(builder, Csv):
        return partial(read_csv, drop=drop, delimiter=config.sep) if len(config.sep) == 1 else None
    if isinstance(builder, Json):
        return partial(read_json, drop=drop)
    return partial(read_parquet, drop=drop, images=images) if _is_parquet(builder) else None


def _is_parquet(builder: Any) -> bool:
    from datasets.packaged_modules.parquet.parquet import Parquet

    return isinstance(builder, Parquet)


def _keep_words(builder: Any, split: str) -> None:
    """Let a csv keep what pandas takes for missing (`NA`, `null`, `None`) and for a number (`007`)."""
    from datasets import Features, Value
    from datasets.packaged_modules.csv.csv import Csv

    if not isinstance(builder, Csv):
        return
    config: Any = builder.config
    config.keep_default_na, config.na_values = False, [""]  # an empty field is a null
    rows: Any = builder.as_streaming_dataset(split=split)
    head = next(rows.with_format("arrow").iter(1), None)
    # All of it is text first; the features of the data set, if it has any, make numbers of what it says are numbers.
    config.features = head and Features({name: Value("string") for name in head.column_names})


def _digests(files: Iterable[FileVersion]) -> list[str]:
    return sorted(file.digest() for file in files)
