"""Storage in an S3 bucket, through s3fs."""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from ftlib.errors import IntegrityError, StorageError, TransientError
from ftlib.storage.files import appearing, expect, local_errors, missing
from ftlib.storage.s3_errors import meaning
from ftlib.storage.store import safe_relpath

T = TypeVar("T")
R = TypeVar("R")

PART_BYTES = 16 * 2**20
NAMES_AT_ONCE = 1000
PARTS_AT_ONCE = 4  # of one file: 64 MiB in memory; s3fs' own defaults took 2.2 GB for 1 GB of shards


class S3Store:
    """A prefix of an S3 bucket; credentials and region come from the environment, as every AWS tool reads them.

    Each request is retried until `deadline` seconds have passed, and fails at once for what no retry can change.
    """

    def __init__(self, bucket: str, prefix: str = "", endpoint_url: str | None = None, deadline: float = 300.0) -> None:
        import s3fs

        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self.endpoint_url = endpoint_url
        self.deadline = deadline
        self._answered = False
        # Instances are shared by default and cache listings: a long-lived worker would never see a new object.
        self._fs: Any = s3fs.S3FileSystem(
            endpoint_url=endpoint_url,
            use_listings_cache=False,
            skip_instance_cache=True,
            default_fill_cache=False,
            config_kwargs={
                "retries": {"mode": "standard", "max_attempts": 2},
                "connect_timeout": 5,
                "read_timeout": 60,
                "max_pool_connections": 32,
            },
        )
        self._fs.retries = 1  # s3fs repeats each of botocore's attempts five times: 50 requests for one reset

    @property
    def uri(self) -> str:
        """Return s3://bucket/prefix."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, path: str) -> bytes | None:
        """See Store."""
        try:
            return self._cat(path)
        except FileNotFoundError:
            return None

    def create(self, path: str, data: bytes) -> bool:
        """See Store."""
        try:
            self._call("put_object", path, Body=data, IfNoneMatch="*")
        except FileExistsError:
            return False
        return True

    def put_file(self, source: Path, path: str, sha256: str) -> None:
        """See Store."""
        with source.open("rb") as stream:
            if source.stat().st_size <= PART_BYTES:
                data = stream.read()
                expect(sha256, hashlib.sha256(data).hexdigest(), str(source))
                self._call("put_object", path, Body=data)
                return
            upload = self._call("create_multipart_upload", path)["UploadId"]
            try:
                parts = self._put_parts(stream, path, upload, sha256)
            except StorageError:  # after a kill or a lost connection the bucket's lifecycle rule has to do this
                self._call("abort_multipart_upload", path, UploadId=upload)
                raise
            self._complete(path, upload, parts, source.stat().st_size)

    def _complete(self, path: str, upload: str, parts: list[dict[str, Any]], size: int) -> None:
        try:
            self._call("complete_multipart_upload", path, UploadId=upload, MultipartUpload={"Parts": parts})
        except FileNotFoundError:  # no such upload: ours was completed and the reply was lost
            if self.size(path) != size:
                raise StorageError(f"{self.uri}/{path}: the store forgot the upload; publish again") from None

    def _put_parts(self, stream: BinaryIO, path: str, upload: str, sha256: str) -> list[dict[str, Any]]:
        running = hashlib.sha256()

        def pieces() -> Iterator[tuple[int, bytes]]:
            for number, data in enumerate(iter(lambda: stream.read(PART_BYTES), b""), start=1):
                running.update(data)
                yield number, data

        def put(piece: tuple[int, bytes]) -> dict[str, Any]:
            number, data = piece
            answer = self._call("upload_part", path, PartNumber=number, UploadId=upload, Body=data)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        parts = list(in_order(put, pieces(), PARTS_AT_ONCE))
        expect(sha256, running.hexdigest(), stream.name)
        return parts

    def get_file(self, path: str, target: Path, sha256: str) -> None:
        """See Store."""
        size = self.size(path)
        if size is None:
            raise IntegrityError(missing(f"{self.uri}/{path}"))

        def get(first: int) -> bytes:
            return self._cat(path, first, min(first + PART_BYTES, size)) if size > PART_BYTES else self._cat(path)

        with local_errors(target, size), appearing(target) as stream:
            found = hashlib.sha256()
            for data in in_order(get, range(0, size, PART_BYTES), PARTS_AT_ONCE):
                found.update(data)
                stream.write(data)
            expect(sha256, found.hexdigest(), f"{self.uri}/{path}")

    def list(self, folder: str) -> list[str]:
        """See Store."""
        prefix = f"{self._key(folder)}/"
        names: list[str] = []
        page: dict[str, Any] = {}
        while True:
            page = self._request(
                f"listing {self.uri}/{folder}",
                "list_objects_v2",
                Bucket=self.bucket,
                Prefix=prefix,
                Delimiter="/",
                MaxKeys=NAMES_AT_ONCE,
                **({"ContinuationToken": page["NextContinuationToken"]} if page else {}),
            )
            names += [entry["Key"].removeprefix(prefix) for entry in page.get("Contents", [])]
            names += [entry["Prefix"].removeprefix(prefix) for entry in page.get("CommonPrefixes", [])]
            if not page.get("IsTruncated"):
                return sorted(name for name in names if name)

    def size(self, path: str) -> int | None:
        """See Store."""
        try:
            return int(self._call("head_object", path)["ContentLength"])
        except FileNotFoundError:
            return None

    def discard(self, path: str) -> bool:
        """See Store."""
        try:
            self._call("delete_object", path)
        except StorageError:
            return False
        return True

    def _key(self, path: str) -> str:
        return f"{self.prefix}/{safe_relpath(path)}".lstrip("/")

    def _cat(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        key = f"{self.bucket}/{self._key(path)}"
        read = cast("Callable[..., bytes]", self._fs.cat_file)
        return self._retry(f"reading {self.uri}/{path}", lambda: read(key, start=start, end=end, max_concurrency=1))

    def _call(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        what = f"{method} {self.uri}/{path}"
        return self._request(what, method, Bucket=self.bucket, Key=self._key(path), **arguments)

    def _request(self, what: str, method: str, **arguments: Any) -> dict[str, Any]:
        request = cast("Callable[..., dict[str, Any]]", self._fs.call_s3)
        return self._retry(what, lambda: request(method, **arguments))

    def _retry(self, what: str, attempt: Callable[[], T]) -> T:
        """Try until it works, no retry can help, or the deadline has passed."""
        # A wrong endpoint is told soon; a server that has answered before is given time to come back.
        give_up = time.monotonic() + (self.deadline if self._answered else min(20.0, self.deadline))
        pause = 0.2
        while True:
            try:
                result = attempt()
            except Exception as error:
                verdict = meaning(error, what)
                if verdict is error:
                    raise
                if not isinstance(verdict, TransientError) or time.monotonic() + pause > give_up:
                    raise verdict from error
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
            else:
                self._answered = True
                return result


def in_order(function: Callable[[T], R], items: Iterable[T], width: int) -> Iterator[R]:
    """Yield `function(item)` in order, with `width` calls under way and never more results than that in memory."""
    with ThreadPoolExecutor(width) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                if len(waiting) == width:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(function, item))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
