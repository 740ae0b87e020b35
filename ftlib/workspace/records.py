"""A finished stage's record in its folder, and files that are whole or absent after a power cut."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from ftlib.artifacts import Artifact
from ftlib.errors import StorageError
from ftlib.storage.files import appearing, flush, local_errors, private_folder
from ftlib.storage.user_cache import another_disk

A = TypeVar("A", bound=Artifact)

RECORD = "artifact.json"


def read_record(folder: Path, kind: type[A]) -> A | None:
    """Read a folder's record; None if the folder has none. Raises StorageError if it is damaged or cannot be read."""
    with local_errors(folder / RECORD, elsewhere=another_disk(folder)):
        try:
            text = (folder / RECORD).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
    try:
        return kind.model_validate_json(text).model_copy(update={"uri": str(folder)})
    except ValidationError as error:
        raise StorageError(
            f"{folder / RECORD} is not a {kind.__name__} record ({error.error_count()} errors); "
            f"it was damaged or made by another version: delete {folder} to make it again"
        ) from error


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a power cut it is either absent or whole: a name of its own, fsync, rename.

    Of several that write it at once one has it whole. Its folder is made if it is missing. Raises StorageError where
    it cannot be written.
    """
    with local_errors(path, len(data), another_disk(path)):
        private_folder(path.parent)
        with appearing(path) as stream:
            stream.write(data)
            flush(stream)
