"""Storage in an S3 bucket."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import override

from ftlib.errors import IntegrityError, StorageError
from ftlib.storage.encryption import WRITES, asked_key, check_encrypted, headers
from ftlib.storage.files import appearing, expect, local_errors, missing
from ftlib.storage.in_order import in_order
from ftlib.storage.s3_client import S3Client
from ftlib.storage.store import Store, safe_relpath

PART_BYTES = 8 * 2**20
MOST_PARTS = 10_000  # the protocol's own limit
PARTS_AT_ONCE = 8  # of one file: 64 MiB in memory
RANGE_BYTES = 32 * 2**20  # of a download, which is not held in memory; a request takes 2 ms of the interpreter
HASH_BYTES = 2**18


class S3Store(Store):
    """A prefix of an S3 bucket; credentials and region come from the environment, as every AWS tool reads them.

    Each request is retried until `deadline` seconds have passed, and fails at once for what no retry can change.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        endpoint_url: str | None = None,
        deadline: float = 300.0,
        kms_key: str | None = None,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.endpoint_url = endpoint_url
        self.client = S3Client(bucket, endpoint_url, deadline)
        self.kms_key = kms_key
        self._tried: str | None = None
        """The key with which this store has been seen to encrypt."""

    @property
    def uri(self) -> str:
        """Return s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @property
    @override
    def identity(self) -> str:
        return f"{self.uri} at {self.endpoint_url}" if self.endpoint_url else self.uri

    @override
    def read(self, path: str) -> bytes | None:
        try:
            return self._cat(path)
        except FileNotFoundError:
            return None

    @override
    def read_range(self, path: str, start: int, count: int) -> bytes:
        if count < 1:
            return b""
        span = range(start, start + count)
        try:
            return self.client.read_span(f"reading {self.uri}/{path}", span, Bucket=self.bucket, Key=self._key(path))
        except FileNotFoundError:
            raise IntegrityError(missing(f"{self.uri}/{path}")) from None

    @override
    def create(self, path: str, data: bytes) -> bool:
        try:
            self._call("put_object", path, Body=data, IfNoneMatch="*")
        except FileExistsError:
            return False
        return True

    @override
    def write(self, path: str, data: bytes) -> None:
        self._call("put_object", path, Body=data)

    @override
    def put_file(self, source: Path, path: str, sha256: str) -> None:
        with source.open("rb") as stream:
            if source.stat().st_size <= PART_BYTES:
                data = stream.read()
                expect(sha256, hashlib.sha256(data).hexdigest(), str(source))
                self._call("put_object", path, Body=data)
                return
            upload = self._call("create_multipart_upload", path)["UploadId"]
            try:
                parts = self._put_parts(stream, path, upload, sha256)
                self._complete(path, upload, parts, source.stat().st_size)
            except BaseException:  # after a kill or a lost connection the bucket's lifecycle rule has to do this
                whose = {"Bucket": self.bucket, "Key": self._key(path), "UploadId": upload}
                self.client.attempt(f"giving up {self.uri}/{path}", "abort_multipart_upload", **whose)
                raise

    def _complete(self, path: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        try:
            self._call("complete_multipart_upload", path, UploadId=upload, MultipartUpload={"Parts": parts})
        except FileNotFoundError:  # no such upload: ours was completed and the reply was lost
            if self.size(path) != size:
                raise StorageError(f"{self.uri}/{path}: the store forgot the upload; publish again") from None

    def _put_parts(self, stream: BinaryIO, path: str, upload: str, sha256: str) -> list[dict[str, Any]]:
        running = hashlib.sha256()
        part = part_bytes(os.fstat(stream.fileno()).st_size)

        def pieces() -> Iterator[tuple[int, bytes]]:
            for number, data in enumerate(iter(lambda: stream.read(part), b""), start=1):
                running.update(data)
                yield number, data

        def put(piece: tuple[int, bytes]) -> dict[str, Any]:
            number, data = piece
            answer = self._call("upload_part", path, PartNumber=number, UploadId=upload, Body=data)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        parts = list(in_order(put, pieces(), PARTS_AT_ONCE))
        expect(sha256, running.hexdigest(), stream.name)
        return parts

    @override
    def get_file(self, path: str, target: Path, sha256: str) -> None:
        """Download in parts that several requests fetch at once, and hash them in order while they come."""
        where, size = f"{self.uri}/{path}", self.size(path)
        if size is None:
            raise IntegrityError(missing(where))

        with local_errors(target, size), appearing(target) as stream:
            file = stream.fileno()

            def get(first: int) -> range:
                span = range(first, min(first + RANGE_BYTES, size))
                whose = {"Bucket": self.bucket, "Key": self._key(path)}
                try:
                    self.client.read_into(file, span, f"reading {where}", **whose)
                except (EOFError, FileNotFoundError):
                    raise IntegrityError(f"{where} was replaced or removed while it was read; run again") from None
                return span

            running, buffer = hashlib.sha256(), memoryview(bytearray(HASH_BYTES))
            for span in in_order(get, range(0, size, RANGE_BYTES), PARTS_AT_ONCE):
                for start in span[::HASH_BYTES]:
                    count = os.preadv(file, [buffer[: span.stop - start]], start)
                    running.update(buffer[:count])
            expect(sha256, running.hexdigest(), where)

    @override
    def list(self, folder: str) -> list[str]:
        prefix = f"{self._key(folder)}/"
        names: list[str] = []
        what = f"listing {self.uri}/{folder}"
        for page in self.client.pages(what, Bucket=self.bucket, Prefix=prefix, Delimiter="/"):
            names += [entry["Key"].removeprefix(prefix) for entry in page.get("Contents", [])]
            names += [entry["Prefix"].removeprefix(prefix) for entry in page.get("CommonPrefixes", [])]
        return sorted(name for name in names if name)

    @override
    def size(self, path: str) -> int | None:
        try:
            return int(self._call("head_object", path)["ContentLength"])
        except FileNotFoundError:
            return None

    @override
    def discard(self, path: str) -> bool:
        try:
            self._call("delete_object", path)
        except FileNotFoundError:  # S3 itself answers 204 whether or not there is one
            return True
        except StorageError:
            return False
        return True

    def leftovers(self, *, remove: bool) -> list[str]:
        """Return nothing: only parts of killed uploads are left, which the bucket's lifecycle rule removes."""
        return []

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{safe_relpath(path)}".lstrip("/")

    def _cat(self, path: str) -> bytes:
        return self.client.read(f"reading {self.uri}/{path}", Bucket=self.bucket, Key=self._key(path))

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        what = f"{method} {self.uri}/{path}"
        key = asked_key(self.kms_key) if method in WRITES else None
        if key is None:
            return self.client.request(what, method, Bucket=self.bucket, Key=self._key(path), **arguments)
        self._try_encryption(key)
        arguments |= headers(key)
        answer = self.client.request(what, method, Bucket=self.bucket, Key=self._key(path), **arguments)
        check_encrypted(answer, key, f"{self.uri}/{path}")
        return answer

    def _try_encryption(self, key: str) -> None:
        """Write an object that says nothing and look how it lies there, before the first that says something."""
        if self._tried == key:
            return
        path = f"probes/{uuid.uuid4().hex}.json"
        whose = {"Bucket": self.bucket, "Key": self._key(path)}
        self.client.request(f"encrypting {self.uri}", "put_object", **whose, Body=b"{}", **headers(key))
        try:
            stored = self.client.request(f"head_object {self.uri}/{path}", "head_object", **whose)
            check_encrypted(stored, key, self.uri)
        finally:
            self.client.attempt(f"delete_object {self.uri}/{path}", "delete_object", **whose)
        self._tried = key


def part_bytes(size: int) -> int:
    """Return how large an upload's parts are, so that there are not too many."""
    return max(PART_BYTES, -(-size // MOST_PARTS))
