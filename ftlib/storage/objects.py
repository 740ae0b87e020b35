"""Objects that others write to a bucket: listed with their versions, and read as the version that was listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, NamedTuple, cast

from ftlib.errors import DataError
from ftlib.storage.s3 import NAMES_AT_ONCE, PARTS_AT_ONCE, in_order
from ftlib.storage.s3_client import S3Client

READ_BYTES = 16 * 2**20


class StoredObject(NamedTuple):
    """An object as a listing shows it."""

    key: str
    etag: str
    bytes: int
    age: float
    """Seconds since it was written, both by the server's clock."""


class Bucket:
    """A bucket that is only read, under keys as they come: nothing is ever written to a path made of one."""

    def __init__(self, name: str, endpoint_url: str | None = None, deadline: float = 300.0) -> None:
        self.name = name
        self.client = S3Client(name, endpoint_url, deadline)

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        """Yield every object whose key begins with `prefix`, in order of keys; one request for a thousand of them."""
        page: dict[str, Any] = {}
        while True:
            page = self.client.request(
                f"listing s3://{self.name}/{prefix}",
                "list_objects_v2",
                Bucket=self.name,
                Prefix=prefix,
                MaxKeys=NAMES_AT_ONCE,
                **({"ContinuationToken": page["NextContinuationToken"]} if page else {}),
            )
            now = _server_time(page)
            for found in cast("list[dict[str, Any]]", page.get("Contents", [])):
                age = (now - found["LastModified"]).total_seconds()
                yield StoredObject(found["Key"], found["ETag"].strip('"'), found["Size"], age)
            if not page.get("IsTruncated"):
                return

    def copy(self, found: StoredObject, target: BinaryIO | None) -> str:
        """Read an object in parts, write them to `target`, and return their sha256; at most 64 MiB are held.

        Raises DataError if it is no longer the version that was listed: every part is asked for with its ETag.
        """
        uri = f"s3://{self.name}/{found.key}"

        def get(first: int) -> bytes:
            last = min(first + READ_BYTES, found.bytes) - 1
            whose: dict[str, Any] = {"Bucket": self.name, "Key": found.key, "IfMatch": f'"{found.etag}"'}
            try:
                return self.client.read(f"reading {uri}", **whose, Range=f"bytes={first}-{last}")
            except (FileExistsError, FileNotFoundError):  # 412 and 404
                raise DataError(
                    f"{uri} changed or vanished while it was read; let no one write to it during a run, and run again"
                ) from None

        running = hashlib.sha256()
        for data in in_order(get, range(0, found.bytes, READ_BYTES), PARTS_AT_ONCE):
            running.update(data)
            if target is not None:
                target.write(data)
        return running.hexdigest()


def _server_time(page: dict[str, Any]) -> datetime:
    """Return the time by the clock that dated the objects: ours may be wrong."""
    date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
