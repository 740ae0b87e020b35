"""Blobs up and down: a few at once, each under its digest, each checked by it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ftlib.errors import IntegrityError
from ftlib.progress import BYTES, emit
from ftlib.registry.versions import MANIFEST, File, Manifest
from ftlib.storage.files import flush_file, flush_tree
from ftlib.storage.store import Store

Moved = Callable[[], None]
FILES_AT_ONCE = 2  # times S3Store's parts in flight: 128 MiB at most


def upload(store: Store, manifest: Manifest, folder: Path, moved: Moved, *, again: bool = False) -> None:
    """Store the blobs that are not there yet, or all if `again`. `moved` is called after each."""

    def put(file: File) -> None:
        if again or store.size(file.blob) != file.bytes:
            store.put_file(folder / file.path, file.blob, file.sha256)

    _transfer(f"upload {manifest.name}", put, manifest.files, moved)


def download(store: Store, manifest: Manifest, folder: Path, moved: Moved, *, durable: bool = False) -> None:
    """Fill a new folder with a version's files and its manifest; if `durable`, they then survive a power cut.

    Raises IntegrityError for a blob that is damaged.
    """

    def get(file: File) -> None:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            store.get_file(file.blob, target, file.sha256)
        except IntegrityError:  # perhaps only damaged on the way: once more
            store.get_file(file.blob, target, file.sha256)
        if durable:  # at once: the disk works while the network does
            flush_file(target)

    folder.mkdir(parents=True)
    _transfer(f"download {manifest.name}", get, manifest.files, moved)
    (folder / MANIFEST).write_bytes(manifest.canonical())
    if durable:
        flush_tree(folder)


def _transfer(label: str, move: Callable[[File], None], files: tuple[File, ...], moved: Moved) -> None:
    """Move files, a few at once; the first failure cancels those that wait."""
    total, done = sum(file.bytes for file in files), 0
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for file, _ in zip(files, pool.map(move, files), strict=True):
            done += file.bytes
            emit(label, done, total, BYTES)
            moved()
