"""Google Cloud Storage, through gcsfs: its JSON API, with the credentials and the connections of gcsfs."""

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, TypeVar, cast

from typing_extensions import override

from ftlib.errors import StorageError, TransientError, first_line
from ftlib.storage.cloud import NAMES_AT_ONCE, CloudBucket, Page
from ftlib.storage.cloud_errors import (
    SKEW,
    clock,
    needs_extra,
    not_encrypted,
    one_line,
    overloaded,
    refused,
    seconds_ahead,
    unreachable,
)
from ftlib.storage.encryption import asked_key
from ftlib.storage.gcs_filesystem import Refusal, open_once
from ftlib.storage.store import StoredObject

T = TypeVar("T")

EMULATOR = "STORAGE_EMULATOR_HOST"
KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"
_CREDENTIALS = f"set {KEY_FILE} to a key file, or run gcloud auth application-default login"
_FIELDS = "items(name,generation,size,updated),prefixes,nextPageToken"


class GcsBucket(CloudBucket):
    """A bucket of GCS. Create-only is `ifGenerationMatch=0`, and a version is an object's generation.

    Credentials are Google's application default ones; a server other than Google's is STORAGE_EMULATOR_HOST, which is
    asked without any unless GOOGLE_APPLICATION_CREDENTIALS is set.
    """

    most_parts = 10**9  # no limit: an upload is one session, and an object has 5 TiB at most

    def __init__(self, bucket: str, deadline: float = 300.0, kms_key: str | None = None) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket):
            raise StorageError(
                f"{bucket!r} is no name of a bucket: allowed are lower-case letters, digits, '.', '_' and '-'; write "
                "gs://bucket/prefix, and leave keys to the environment"
            )
        super().__init__(deadline)
        self.bucket = bucket
        self.kms_key = kms_key
        self.root = f"gs://{bucket}/"

    @override
    def connect(self) -> Any:
        try:
            return open_once(token(), min(60.0, self.deadline / 4))
        except ImportError as error:
            raise needs_extra("gs", "gcsfs", "gcs", error) from error
        except Exception as error:
            why = first_line(error).rstrip(".")
            raise StorageError(f"no credentials for {self.root}: {why}; {_CREDENTIALS}") from error

    @override
    def get(self, key: str, span: range | None = None, version: str | None = None) -> bytes:
        headers = {} if span is None else {"Range": f"bytes={span.start}-{span.stop - 1}"}

        def get(client: Any) -> bytes:
            path = f"{client._location}/download/storage/v1/b/{{}}/o/{{}}"
            _, data = client.call(
                "GET", path, self.bucket, key, alt="media", headers=headers, ifGenerationMatch=version
            )
            return cast("bytes", data)

        return self.retry(f"reading {self.root}{key}", get)

    @override
    def put(self, key: str, data: bytes, *, create: bool = False) -> None:
        key_asked = asked_key(self.kms_key)

        def put(client: Any) -> dict[str, Any]:
            # its own simple upload puts the bytes between boundaries, which the bytes may hold
            return client.call(
                "POST",
                f"{client._location}/upload/storage/v1/b/{{}}/o",
                self.bucket,
                uploadType="media",
                name=key,
                ifGenerationMatch="0" if create else None,
                kmsKeyName=key_asked,
                headers={"Content-Type": "application/octet-stream"},
                data=io.BytesIO(data),
                json_out=True,
            )

        answer = self._of_bucket(f"{'creating' if create else 'writing'} {self.root}{key}", put)
        if key_asked and not str(answer.get("kmsKeyName", "")).startswith(key_asked):
            raise not_encrypted(f"{self.root}{key}", key_asked, str(answer.get("kmsKeyName", "a key of its own")))

    @override
    def upload(self, key: str, pieces: Iterator[bytes], size: int, sha256: str) -> None:
        """Send the pieces one after the other to an upload session, which says how far it came whenever it is asked."""
        what = f"uploading {self.root}{key}"
        key_asked = asked_key(self.kms_key)
        session = self._of_bucket(what, lambda client: self._start(client, key, key_asked))
        received = 0
        try:
            for piece in pieces:
                received = self._send(what, session, piece, received, size)
        except BaseException:
            self.try_once(f"giving up {self.root}{key}", lambda client: client.call("DELETE", session))
            raise

    def _start(self, client: Any, key: str, key_asked: str | None) -> str:
        path = f"{client._location}/upload/storage/v1/b/{{}}/o"
        headers, _ = client.call(
            "POST", path, self.bucket, uploadType="resumable", name=key, kmsKeyName=key_asked, json={}
        )
        return str(headers["Location"])

    def _send(self, what: str, session: str, piece: bytes, first: int, size: int) -> int:
        """Send the bytes from `first` on until the session has them, and return what it has."""
        received, asked_before = first, False

        def send(client: Any) -> None:
            nonlocal received, asked_before
            if asked_before:  # it may have taken a part, or all, of what broke off
                headers, body = client.call("PUT", session, headers={"Content-Range": f"bytes */{size}"})
                received = _received(headers, body, size)
            asked_before = True
            while received < first + len(piece):
                if received < first:
                    raise TransientError(f"{what}: the store forgot a part of it; run again")
                data = memoryview(piece)[received - first :]
                span = f"bytes {received}-{first + len(piece) - 1}/{size}"
                headers, body = client.call("PUT", session, headers={"Content-Range": span}, data=io.BytesIO(data))
                received = _received(headers, body, size)

        try:
            self.retry(what, send)
        except FileNotFoundError:
            raise TransientError(f"{what}: the store forgot the upload; run again") from None
        return received

    @override
    def size(self, key: str) -> int:
        def size(client: Any) -> int:
            return int(client.call("GET", "b/{}/o/{}", self.bucket, key, json_out=True, fields="size")["size"])

        return self.retry(f"looking at {self.root}{key}", size)

    @override
    def pages(self, prefix: str, delimiter: str | None = None) -> Iterator[Page]:
        asked = {"prefix": prefix or None, "delimiter": delimiter, "fields": _FIELDS, "maxResults": NAMES_AT_ONCE}
        token: str | None = None
        while True:
            page_asked = {**asked, "pageToken": token}
            headers, body = self._of_bucket(
                f"listing {self.root}{prefix}",
                lambda client, page_asked=page_asked: client.call("GET", "b/{}/o", self.bucket, **page_asked),
            )
            answer = cast("dict[str, Any]", json.loads(body))
            now = time.time() - (seconds_ahead(headers) or 0.0)
            yield Page([_stored(item, now) for item in answer.get("items", [])], answer.get("prefixes", []))
            token = answer.get("nextPageToken")
            if not token:
                return

    @override
    def delete(self, key: str) -> None:
        self.retry(f"deleting {self.root}{key}", lambda client: client.call("DELETE", "b/{}/o/{}", self.bucket, key))

    def _of_bucket(self, what: str, request: Callable[[Any], T]) -> T:
        """Send what needs no object to be there: absent is then the bucket."""
        try:
            return self.retry(what, request)
        except FileNotFoundError:
            raise refused(what, 404, "", _NO_BUCKET) from None

    @override
    def has_expired(self, error: Exception) -> bool:
        from gcsfs.retry import HttpError

        return (isinstance(error, Refusal) and error.status == 401) or (
            isinstance(error, HttpError) and error.code == 401
        )

    @override
    def meaning(self, error: Exception, what: str) -> Exception:
        from aiohttp import ClientError
        from gcsfs.retry import HttpError, NonRetryableError
        from google.auth.exceptions import GoogleAuthError, TransportError
        from requests import RequestException

        if isinstance(error, Refusal):
            return _answer(error.status, error.text, error.headers, what)
        if isinstance(error, (TransportError, RequestException, ClientError, TimeoutError, OSError)):
            return unreachable(what, error)
        if isinstance(error, (HttpError, NonRetryableError, GoogleAuthError)):
            return StorageError(
                f"{what}: the credentials could not be renewed ({one_line(error)}); {_CREDENTIALS}, and look at this "
                "machine's clock"
            )
        return error


def token() -> str:
    """Return which of gcsfs's ways to credentials is gone: its own choice ends without any, and is refused later."""
    return "anon" if os.environ.get(EMULATOR) and KEY_FILE not in os.environ else "google_default"


_NO_BUCKET = f"create the bucket, or correct its name or {EMULATOR}"


def _answer(status: int, text: str, headers: Mapping[str, str], what: str) -> Exception:
    message, reason = _reason(text)
    if status == 412:
        return FileExistsError(what)
    if status == 416:
        return EOFError(what)
    if status == 404 and "bucket does not exist" not in message:
        return FileNotFoundError(what)
    if status in (408, 409, 429) or status >= 500 or "ateLimitExceeded" in reason:
        return overloaded(what, f"{status} {reason}".strip())
    ahead = seconds_ahead(headers)
    if status in (401, 403) and ahead is not None and abs(ahead) > SKEW:
        remedy = clock(ahead)
    else:
        remedy = _REMEDIES.get(status, "see the bucket's own log")
    return refused(what, f"{status} {reason}".strip(), message, remedy)


_REMEDIES = {
    401: f"the credentials have expired or are none of Google's: renew them ({_CREDENTIALS}) and run again",
    403: "the role needs storage.objects.get, storage.objects.create and storage.objects.list there, and delete where "
    "objects are replaced: roles/storage.objectUser",
    404: _NO_BUCKET,
    410: "the upload is gone: run again",
}


def _reason(text: str) -> tuple[str, str]:
    """Return an answer's message and the word that stands for it; downloads are refused in plain text."""
    try:
        error = cast("dict[str, Any]", json.loads(text)["error"])
        details = cast("list[dict[str, str]]", error.get("errors") or [{}])
        return str(error.get("message", "")), str(details[0].get("reason", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return text, ""


def _received(headers: Mapping[str, str], body: bytes, size: int) -> int:
    """Return how many bytes an upload session has: all once it answers with the object."""
    if body.lstrip().startswith(b"{"):
        return size
    _, _, last = str(headers.get("Range", "")).rpartition("-")
    return int(last) + 1 if last else 0


def _stored(item: dict[str, Any], now: float) -> StoredObject:
    updated = datetime.fromisoformat(item["updated"]).timestamp()
    return StoredObject(item["name"], str(item["generation"]), int(item["size"]), max(0.0, now - updated))
