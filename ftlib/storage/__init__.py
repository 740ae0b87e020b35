"""The only package that opens storage: a folder or an S3 bucket behind one small interface.

Everything a registry needs is built on one primitive, `create`: a small object that is written whole or not at all,
and by at most one of any number of writers. Locally that is link(2), on S3 `PutObject` with `If-None-Match: *`. The
other conditional writes of S3 are broken or ignored on servers people run, so nothing here uses them; a server that
ignores this one too is found by `ftlib.registry.probe`.
"""

from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.local import LocalStore
from ftlib.storage.s3 import S3Store
from ftlib.storage.s3_client import check_no_secret
from ftlib.storage.store import Store, safe_relpath

__all__ = ["LocalStore", "S3Store", "Store", "open_store", "safe_relpath"]


def open_store(uri: str, endpoint_url: str | None = None) -> Store:
    """Open `s3://bucket/prefix` or a folder's path. Touches nothing yet. Raises StorageError for anything else.

    A URL that gives a password, key or signature away is refused, too.
    """
    check_no_secret(uri)
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return LocalStore(Path(uri))
    if scheme != "s3" or not rest.strip("/"):
        raise StorageError(f"{uri!r} is no storage this can open; allowed are a folder's path and s3://bucket/prefix")
    bucket, _, prefix = rest.partition("/")
    return S3Store(bucket, prefix, endpoint_url)
