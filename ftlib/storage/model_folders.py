"""Model folders in a bucket, as people put them there: fetched as they were listed, and written config last."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.files import local_errors
from ftlib.storage.objects import Bucket, StoredObject
from ftlib.storage.s3 import S3Store
from ftlib.storage.s3_client import check_no_secret

CONFIGS = ("config.json", "adapter_config.json")
"""Who finds one takes the folder for whole: it is written last."""


def fetch_folder(uri: str, cache: Path, endpoint_url: str | None = None) -> Path:
    """Return a local copy of the files right under an s3:// prefix; one that was fetched before is not fetched again.

    A copy is known by the names, sizes and ETags that were listed, so an overwritten file is another copy. Raises
    StorageError if there is no model folder, DataError if a file changed while it was read.
    """
    bucket, prefix = _place(uri)
    source = Bucket(bucket, endpoint_url)
    listed = [found for found in source.walk(prefix) if found.bytes and "/" not in found.key.removeprefix(prefix)]
    names = {found.key.removeprefix(prefix): found for found in listed}
    if not names.keys() & {*CONFIGS}:
        raise StorageError(f"{uri} has no {CONFIGS[0]}; give the folder of a model, for example s3://bucket/models/one")
    folder = cache / _identity(f"s3://{bucket}/{prefix}", names)
    if folder.is_dir():
        return folder
    work = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    with local_errors(folder, sum(found.bytes for found in listed)):
        work.mkdir(parents=True)
        for name, found in names.items():
            with (work / name).open("wb") as target:
                source.copy(found, target)
        work.rename(folder)
    return folder


def check_free(uri: str, endpoint_url: str | None = None) -> None:
    """Raise StorageError if an s3:// prefix holds anything."""
    bucket, prefix = _place(uri)
    if (there := next(Bucket(bucket, endpoint_url).walk(prefix), None)) is not None:
        raise StorageError(f"{uri} holds {there.key} already; a model is written to a prefix of its own")


def put_folder(folder: Path, uri: str, endpoint_url: str | None = None) -> None:
    """Write a folder's files under an s3:// prefix that holds nothing. Raises StorageError if it holds something."""
    check_free(uri, endpoint_url)
    bucket, prefix = _place(uri)
    store = S3Store(bucket, prefix, endpoint_url)
    for path in sorted(folder.iterdir(), key=lambda path: (path.name in CONFIGS, path.name)):
        with path.open("rb") as stream:
            store.put_file(path, path.name, hashlib.file_digest(stream, "sha256").hexdigest())


def _place(uri: str) -> tuple[str, str]:
    check_no_secret(uri)  # first: a key with slashes would be cut into a bucket and a prefix
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    if not uri.startswith("s3://") or not bucket or not prefix.strip("/"):
        raise StorageError(f"{uri!r} names no folder of a bucket; write s3://bucket/folder")
    return bucket, prefix.strip("/") + "/"


def _identity(uri: str, names: dict[str, StoredObject]) -> str:
    facts = [uri, *(f"{name} {found.etag} {found.bytes}" for name, found in sorted(names.items()))]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
