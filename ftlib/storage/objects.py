"""Objects that others write to a bucket of S3: listed with their versions, and read as the version that was listed.

Through s3fs, as those of other clouds go through gcsfs and adlfs: what a run writes has a client of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, cast

from typing_extensions import override

from ftlib.errors import DataError
from ftlib.storage.in_order import in_order
from ftlib.storage.patience import Patient
from ftlib.storage.s3 import PARTS_AT_ONCE
from ftlib.storage.s3_client import CONNECTIONS, NAMES_AT_ONCE, check_place, connected
from ftlib.storage.s3_errors import has_expired, meaning
from ftlib.storage.s3_filesystem import ask, open_once
from ftlib.storage.store import StoredObject

READ_BYTES = 16 * 2**20


class S3Objects(Patient):
    """A bucket that is only read, under keys as they come: nothing is ever written to a path made of one."""

    def __init__(self, bucket: str, endpoint_url: str | None = None, deadline: float = 300.0) -> None:
        check_place(bucket, endpoint_url)
        super().__init__(deadline)
        self.bucket = bucket
        self.endpoint_url = endpoint_url

    def uri(self, key: str) -> str:
        """Return the URI of a key."""
        return f"s3://{self.bucket}/{key}"

    def walk(self, prefix: str) -> Iterator[StoredObject]:
        """Yield the objects below a prefix, a thousand a request; the version is the ETag."""
        page: dict[str, Any] = {}
        while not page or page.get("IsTruncated"):
            page = self._list(prefix, page.get("NextContinuationToken"))
            now = _server_time(page)
            for entry in cast("list[dict[str, Any]]", page.get("Contents", [])):
                age = (now - entry["LastModified"]).total_seconds()
                yield StoredObject(entry["Key"], entry["ETag"].strip('"'), entry["Size"], age)

    def _list(self, prefix: str, token: str | None) -> dict[str, Any]:
        more = {"ContinuationToken": token} if token else {}
        asked = {"Bucket": self.bucket, "Prefix": prefix, "MaxKeys": NAMES_AT_ONCE, **more}
        return self.retry(
            f"listing {self.uri(prefix)}",
            lambda filesystem: ask(filesystem, lambda client: client.list_objects_v2(**asked)),
        )

    def copy(self, listed: StoredObject, target: BinaryIO | None) -> str:
        """Copy the version that was listed and return its sha256: in parts, each asked for with the ETag."""
        uri = self.uri(listed.key)

        def get(first: int) -> bytes:
            last = min(first + READ_BYTES, listed.bytes) - 1
            whose = {"Bucket": self.bucket, "Key": listed.key, "IfMatch": f'"{listed.version}"'}

            async def read(client: Any) -> bytes:
                answer = await client.get_object(**whose, Range=f"bytes={first}-{last}")
                async with answer["Body"] as body:
                    return await body.read()

            try:
                return self.retry(f"reading {uri}", lambda filesystem: ask(filesystem, read))
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

    @override
    def connect(self) -> Any:
        return connected(
            self.endpoint_url, lambda: open_once(self.endpoint_url, min(60.0, self.deadline / 4), CONNECTIONS)
        )

    @override
    def meaning(self, error: Exception, what: str) -> Exception:
        return meaning(error, what)

    @override
    def has_expired(self, error: Exception) -> bool:
        return has_expired(error)


def _server_time(page: dict[str, Any]) -> datetime:
    """Return the time by the clock that dated the objects: ours may be wrong."""
    date = page["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(date) if date else datetime.now(UTC)
