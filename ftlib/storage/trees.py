"""A folder in a bucket: its files as blobs by digest, and one small record, created last, that says what it is made of.

    blobs/sha256/ab/<64 hex>                       a file's bytes; equal files are stored once, those of a registry too
    <key>/record.json                              create-only: the tree; without it the folder does not exist

A tree is read by its record's key, never by a listing: a key ending in `/`, a file of no bytes, a folder without files
and a listing that is behind mean nothing here.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ftlib.config import Config
from ftlib.errors import TransientError
from ftlib.fingerprint import file_digest
from ftlib.progress import BYTES, emit
from ftlib.storage.files import local_errors
from ftlib.storage.leases import lease, utc_now
from ftlib.storage.sealed_records import read_record, record_bytes
from ftlib.storage.store import Store, safe_relpath

FILES_AT_ONCE = 4

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TreeFile(Config):
    """A file of a tree."""

    path: str
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]

    @property
    def blob(self) -> str:
        """Return where its bytes are."""
        return blob_path(self.sha256)


class Tree(Config):
    """What a folder holds, and what it is."""

    schema_version: Literal[1] = 1
    files: tuple[TreeFile, ...]
    folders: tuple[str, ...] = ()
    """Those that hold nothing: a bucket has no folders."""
    artifact: dict[str, Any] = {}
    """The record of the stage that made it; empty for a folder that none made."""
    nonce: str
    """Tells our own write from another's, and one making of the same job from the next."""
    who: str
    at: str
    """UTC; for people."""

    def below(self, part: str) -> tuple[TreeFile, ...]:
        """Return the files of a folder of the tree, or the one file of that name; all for the empty path."""
        return tuple(file for file in self.files if not part or file.path == part or file.path.startswith(f"{part}/"))


def blob_path(sha256: str) -> str:
    """Return where a file's bytes are stored, by their digest."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def record_path(key: str) -> str:
    """Return where a tree's record is."""
    return f"{key}/record.json"


def read_tree(store: Store, key: str) -> Tree | None:
    """Return a tree, or None if there is none. Raises IntegrityError for a record that is damaged or none of ours."""
    tree = read_record(store, record_path(key), Tree)
    for path in [] if tree is None else [*(file.path for file in tree.files), *tree.folders]:
        safe_relpath(path)
    return tree


def tree_of(folder: Path, artifact: dict[str, Any]) -> Tree:
    """Hash a folder's files. Raises StorageError for one that cannot be read, or whose name no object may have."""
    files: list[TreeFile] = []
    folders: list[str] = []
    with local_errors(folder):
        for where, _, names in os.walk(folder, followlinks=True):
            inside = Path(where).relative_to(folder)
            for name in names:
                path = Path(where, name)
                relative = safe_relpath((inside / name).as_posix())
                files.append(TreeFile(path=relative, sha256=file_digest(path), bytes=path.stat().st_size))
            if where != str(folder) and not any(Path(where).iterdir()):
                folders.append(safe_relpath(inside.as_posix()))
    return Tree(
        files=tuple(sorted(files, key=lambda file: file.path)),
        folders=tuple(sorted(folders)),
        artifact=artifact,
        nonce=uuid.uuid4().hex,
        who=f"{socket.gethostname()}:{os.getpid()}",
        at=utc_now(),
    )


def create_tree(store: Store, key: str, folder: Path, tree: Tree) -> Tree:
    """Upload a folder's files, create the tree's record, and return the one that is there: ours, or the first's.

    Blobs that are there already are not sent again, and are leased meanwhile: no collector takes them. One that had
    read the leases just before may: so those are looked at once more after the record, which it reads, too. Raises
    StorageError, or TransientError once retries have not helped; nothing can be seen then, or what is seen is whole.
    """
    with lease(store, tuple(sorted({file.blob for file in tree.files}))) as renew:
        there = upload_blobs(store, folder, tree.files, renew)
        store.create(record_path(key), record_bytes(tree))
        upload_blobs(store, folder, there, renew)
        stored = read_tree(store, key)
    if stored is None:
        raise TransientError(f"{store.uri}/{record_path(key)} was written and is not shown; run again")
    return stored


def upload_blobs(
    store: Store, folder: Path, files: Iterable[TreeFile], moved: Callable[[], None]
) -> tuple[TreeFile, ...]:
    """Store the blobs that are not there yet, a few at once, and return the files whose blobs were.

    Each is hashed again in the pass that sends it.
    """
    once = {file.sha256: file for file in files}
    total, done = sum(file.bytes for file in once.values()), 0

    def send(file: TreeFile) -> bool:
        """Store a blob unless it is there; say whether it was sent."""
        if store.size(file.blob) == file.bytes:
            return False
        store.put_file(folder / file.path, file.blob, file.sha256)
        return True

    there: list[TreeFile] = []
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        for file, sent in zip(once.values(), pool.map(send, once.values()), strict=True):
            there += [] if sent else [file]
            done += file.bytes
            emit("upload", done, total, BYTES)
            moved()
    return tuple(there)
