"""Model folders in a bucket, as people put them there: fetched as they were listed, and written config last."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage import Place, open_objects, open_store
from ftlib.storage.files import local_errors, take_name
from ftlib.storage.store import StoredObject

CONFIGS = ("config.json", "adapter_config.json")
"""Who finds one takes the folder for whole: it is written last."""


def fetch_folder(place: Place, cache: Path) -> Path:
    """Return a local copy of the files right in a bucket's folder; one that was fetched before is not fetched again.

    A copy is known by the names, sizes and versions that were listed, so an overwritten file is another copy. Raises
    StorageError if there is no model folder, DataError if a file changed while it was read.
    """
    prefix, source = place.folder(), open_objects(place)
    listed = [stored for stored in source.walk(prefix) if stored.bytes and "/" not in stored.key.removeprefix(prefix)]
    names = {stored.key.removeprefix(prefix): stored for stored in listed}
    if not names.keys() & {*CONFIGS}:
        raise StorageError(
            f"{place.uri} has no {CONFIGS[0]}; give the folder of a model, for example {place.root}models/one"
        )
    folder = cache / _identity(source.uri(prefix), names)
    if folder.is_dir():
        return folder
    with local_errors(folder, sum(stored.bytes for stored in listed)):
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=cache) as scratch:
            whole = Path(scratch, "whole")
            whole.mkdir()
            for name, stored in names.items():
                with (whole / name).open("wb") as target:
                    source.copy(stored, target)
            take_name(whole, folder)  # or who was first has it, whose name says that it is the same
    return folder


def check_free(place: Place) -> None:
    """Raise StorageError if a bucket's folder holds anything."""
    prefix = place.folder()
    if (stored := next(open_objects(place).walk(prefix), None)) is not None:
        raise StorageError(f"{place.uri} holds {stored.key} already; a model is written to a prefix of its own")


def put_folder(folder: Path, place: Place) -> None:
    """Write a folder's files to a bucket's folder that holds nothing. Raises StorageError if it holds something."""
    check_free(place)
    store = open_store(place)
    for path in sorted(folder.iterdir(), key=lambda path: (path.name in CONFIGS, path.name)):
        with path.open("rb") as stream:
            store.put_file(path, path.name, hashlib.file_digest(stream, "sha256").hexdigest())


def _identity(uri: str, names: dict[str, StoredObject]) -> str:
    facts = [uri, *(f"{name} {stored.version} {stored.bytes}" for name, stored in sorted(names.items()))]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
