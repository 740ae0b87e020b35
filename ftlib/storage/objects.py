"""Objects that others write to a bucket: listed with their versions, and read as the version that was listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, cast

from ftlib.errors import DataError
from ftlib.storage.in_order import in_order
from ftlib.storage.s3 import PARTS_AT_ONCE
from ftlib.storage.s3_client import S3Client
from ftlib.storage.store import StoredObject

READ_BYTES = 16 * 2**20


class S3Objects:
    """A bucket that is only read, under keys as they come: nothing is ever written to a path made of one."""

    def __init__(self, bucket: str, endpoint_url: str | None = None, deadline: float = 300.0) -> None:
        self.bucket = bucket
        self.client = S3Client(bucket, endpoint_url, deadline)

    def uri(self, key: str) -> str:
        """Return the URI of a key."""
        return f"s3://{self.bucket}/{key}"

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects below a prefix, a thousand a request; the version is the ETag."""
        for page in self.client.pages(f"listing {self.uri(prefix)}", Bucket=self.bucket, Prefix=prefix):
            now = _server_time(page)
            for entry in cast("list[dict[str, Any]]", page.get("Contents", [])):
                age = (now - entry["LastModified"]).total_seconds()
                yield StoredObject(entry["Key"], entry["ETag"].strip('"'), entry["Size"], age)

    def copy(self, listed: StoredObject, target: BinaryIO | None) -> str:
        """Copy the version that was listed and return its sha256: in parts, each asked for with the ETag."""
        uri = self.uri(listed.key)

        def get(first: int) -> bytes:
            last = min(first + READ_BYTES, listed.bytes) - 1
            whose: dict[str, Any] = {"Bucket": self.bucket, "Key": listed.key, "IfMatch": f'"{listed.version}"'}
            try:
                return self.client.read(f"reading {uri}", **whose, Range=f"bytes={first}-{last}")
            except (FileExistsError, FileNotFoundError):  # 412 and 404
                raise DataError(
                    f"{uri} changed or vanished while it was read; let no one write to it during a run, and run again"
                ) from None

        running = hashlib.sha256()
        for data in in_order(get, range(0, listed.bytes, READ_BYTES), PARTS_AT_ONCE):
            running.update(data)
            if target is not None:
                target.write(data)
        return running.hexdigest()


def _server_time(page: dict[str, Any]) -> datetime:
    """Return the time by the clock that dated the objects: ours may be wrong."""
    date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
