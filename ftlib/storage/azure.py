"""Azure Blob Storage and Data Lake Storage, through adlfs: its service client, with the credentials adlfs finds."""

from __future__ import annotations

import asyncio
import base64
import os
import re
import time
import uuid
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

from typing_extensions import override

from ftlib.errors import StorageError, TransientError, first_line
from ftlib.storage.cloud import NAMES_AT_ONCE, PARTS_AT_ONCE, CloudBucket, Page
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
from ftlib.storage.in_order import in_order
from ftlib.storage.patience import close_on
from ftlib.storage.store import StoredObject

T = TypeVar("T")

_CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"
_ACCOUNT = "AZURE_STORAGE_ACCOUNT_NAME"
_CREDENTIALS = (
    f"set {_ACCOUNT} and AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, {_CONNECTION}, or run az login"
)
_HOST = re.compile(r"([a-z0-9]{3,24})\.(?:dfs|blob)\.(core\.[a-z.]+|storage\.azure\.net)")
_WRITE = "abfs://container/path, abfs://container@account.dfs.core.windows.net/path"


class AzureBucket(CloudBucket):
    """A container. Create-only is `If-None-Match: *` on a blob of one request, and a version is an ETag.

    The account is the one the place names, or AZURE_STORAGE_ACCOUNT_NAME; credentials are what adlfs reads.
    """

    most_parts = 50_000

    def __init__(self, bucket: str, deadline: float = 300.0, kms_key: str | None = None) -> None:
        super().__init__(deadline)
        self.container, _, self.host = bucket.partition("@")
        if not re.fullmatch(r"[a-z0-9](?:-?[a-z0-9]){2,62}", self.container):
            raise StorageError(
                f"{self.container!r} is no name of a container: allowed are 3 to 63 lower-case letters, digits and "
                f"single '-'; write {_WRITE}, and leave keys to the environment"
            )
        if self.host and not _HOST.fullmatch(self.host):
            raise StorageError(f"{self.host!r} is no host of a storage account; write {_WRITE}")
        self.root = f"abfs://{bucket}/"
        self.kms_key = kms_key

    @override
    def connect(self) -> Any:
        try:
            from adlfs import AzureBlobFileSystem
        except ImportError as error:
            raise needs_extra("abfs", "adlfs", "azure", error) from error
        named = account(self.root, self.host)
        try:
            filesystem = AzureBlobFileSystem(**named, use_listings_cache=False, skip_instance_cache=True)
        except Exception as error:
            raise StorageError(f"no client for {self.root}: {first_line(error)}; {_CREDENTIALS}") from error
        _close_where_it_was_opened(filesystem)
        return filesystem

    def _blob(self, what: str, key: str, request: Callable[[Any, dict[str, Any]], Awaitable[T]]) -> T:
        """Send a request about a blob: given its client, and the options of one attempt."""
        return self._ask(what, lambda service, options: request(service.get_blob_client(self.container, key), options))

    def _ask(self, what: str, request: Callable[[Any, dict[str, Any]], Awaitable[T]]) -> T:
        from fsspec.asyn import sync

        options = {"retry_total": 0, "connection_timeout": 10, "read_timeout": min(60.0, self.deadline / 4)}

        def send(filesystem: Any) -> T:
            async def asked() -> T:
                # the SDK's own time-outs begin with the first byte of an answer
                return await asyncio.wait_for(request(filesystem.service_client, options), 10 + options["read_timeout"])

            return cast(T, sync(filesystem.loop, asked))

        return self.retry(what, send)

    @override
    def get(self, key: str, span: range | None = None, version: str | None = None) -> bytes:
        from azure.core import MatchConditions

        part = {} if span is None else {"offset": span.start, "length": len(span)}
        if version is not None:
            part |= {"etag": f'"{version}"', "match_condition": MatchConditions.IfNotModified}

        async def get(blob: Any, options: dict[str, Any]) -> bytes:
            stream = await blob.download_blob(**part, **options)
            return await stream.readall()

        return self._blob(f"reading {self.root}{key}", key, get)

    @override
    def put(self, key: str, data: bytes, *, create: bool = False) -> None:
        self._check_key()
        self._blob(
            f"{'creating' if create else 'writing'} {self.root}{key}",
            key,
            lambda blob, options: blob.upload_blob(data, length=len(data), overwrite=not create, **options),
        )

    @override
    def upload(self, key: str, pieces: Iterator[bytes], size: int, sha256: str) -> None:
        """Send blocks, several at a time, and then their list. Blocks that no list names are forgotten after a week."""
        self._check_key()
        from azure.storage.blob import BlobBlock

        what, upload = f"uploading {self.root}{key}", uuid.uuid4().hex  # another may be sending blocks to this blob

        def stage(numbered: tuple[int, bytes]) -> str:
            number, data = numbered
            block = base64.b64encode(f"{upload}{number:08d}".encode()).decode()
            self._blob(what, key, lambda blob, options: blob.stage_block(block, data, length=len(data), **options))
            return block

        blocks = list(in_order(stage, enumerate(pieces), PARTS_AT_ONCE))
        facts = {"sha256": sha256}
        try:
            self._blob(
                what,
                key,
                lambda blob, options: blob.commit_block_list(
                    [BlobBlock(block_id=block) for block in blocks], metadata=facts, **options
                ),
            )
        except _BlocksGoneError:
            if self._facts(key).get("sha256") != sha256:
                raise TransientError(f"{what}: another wrote there at the same time; run again") from None

    def _check_key(self) -> None:
        """Raise StorageError if a key is asked for: here it is the container's, by its default encryption scope."""
        if key := asked_key(self.kms_key):
            raise not_encrypted(self.root, key, "what the container's encryption scope says")

    def _facts(self, key: str) -> Mapping[str, str]:
        async def facts(blob: Any, options: dict[str, Any]) -> Mapping[str, str]:
            return (await blob.get_blob_properties(**options)).metadata

        try:
            return self._blob(f"looking at {self.root}{key}", key, facts)
        except FileNotFoundError:
            return {}

    @override
    def size(self, key: str) -> int:
        async def size(blob: Any, options: dict[str, Any]) -> int:
            return int((await blob.get_blob_properties(**options)).size)

        return self._blob(f"looking at {self.root}{key}", key, size)

    @override
    def pages(self, prefix: str, delimiter: str | None = None) -> Iterator[Page]:
        token: str | None = None
        while True:
            page, token = self._ask(
                f"listing {self.root}{prefix}",
                lambda service, options, token=token: _page(
                    service.get_container_client(self.container), prefix, delimiter, token, options
                ),
            )
            yield page
            if not token:
                return

    @override
    def delete(self, key: str) -> None:
        self._blob(f"deleting {self.root}{key}", key, lambda blob, options: blob.delete_blob(**options))

    @override
    def has_expired(self, error: Exception) -> bool:
        from azure.core.exceptions import HttpResponseError

        return isinstance(error, HttpResponseError) and (
            error.status_code == 401 or getattr(error, "error_code", None) in _EXPIRED
        )

    @override
    def meaning(self, error: Exception, what: str) -> Exception:
        from aiohttp import ClientError
        from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError

        if isinstance(error, TypeError):  # where the SDK reads the refusal of a gateway, which is not as the store's
            error = next((one for one in _contexts(error) if isinstance(one, HttpResponseError)), error)
        if isinstance(error, HttpResponseError) and error.response is not None and (error.status_code or 0) >= 400:
            return _answer(error, what)
        if isinstance(error, ClientAuthenticationError):  # no answer of the store's: there are none, or none that work
            return StorageError(f"{what}: no credentials ({one_line(error)[:300]}); {_CREDENTIALS}")
        if isinstance(error, (AzureError, ClientError, TimeoutError, OSError)):
            return unreachable(what, error)
        return error


def account(root: str, host: str) -> dict[str, Any]:
    """Return what a place says of its account. Raises StorageError if it says nothing and the environment neither.

    adlfs would take the environment's connection string for a place that names another account.
    """
    named = _HOST.fullmatch(host)
    if named is None:
        if not os.environ.get(_CONNECTION) and not os.environ.get(_ACCOUNT):
            raise StorageError(f"{root} names no storage account; {_CREDENTIALS}, or write {_WRITE}")
        return {}
    connected = re.search(r"AccountName=([^;]+)", os.environ.get(_CONNECTION, ""))
    if connected and connected[1] != named[1]:
        raise StorageError(
            f"{root} is of the account {named[1]}, and {_CONNECTION} of {connected[1]}; unset it, or correct one of "
            "them"
        )
    return {"account_name": named[1], "account_host": f"{named[1]}.blob.{named[2]}"}


def _contexts(error: BaseException) -> Iterator[BaseException]:
    """Yield what was being handled as an error arose, from the nearest on."""
    while (before := error.__context__) is not None:
        yield before
        error = before


class _BlocksGoneError(StorageError):
    """The blocks of an upload are not there any more: another committed its own."""


async def _page(
    container: Any, prefix: str, delimiter: str | None, token: str | None, options: dict[str, Any]
) -> tuple[Page, str | None]:
    """Ask for a part of a listing, and return it with what asks for the next."""
    headers: dict[str, str] = {}
    options = {**options, "raw_response_hook": lambda answer: headers.update(answer.http_response.headers)}
    asked = {"name_starts_with": prefix or None, "results_per_page": NAMES_AT_ONCE, "include": ["metadata"], **options}
    listing = container.walk_blobs(delimiter=delimiter, **asked) if delimiter else container.list_blobs(**asked)
    pages = listing.by_page(token)
    try:
        entries = [entry async for entry in await anext(pages)]
    except StopAsyncIteration:
        return Page([], []), None
    now = time.time() - (seconds_ahead(headers) or 0.0)
    # a namespace with folders lists them among the blobs, and a folder is no object
    blobs = [entry for entry in entries if hasattr(entry, "etag") and not _is_folder(entry)]
    folders = [entry.name for entry in entries if not hasattr(entry, "etag")]
    return Page([_stored(blob, now) for blob in blobs], folders), pages.continuation_token


def _is_folder(blob: Any) -> bool:
    return (blob.metadata or {}).get("hdi_isfolder", "").lower() == "true"


def _stored(blob: Any, now: float) -> StoredObject:
    age = max(0.0, now - blob.last_modified.timestamp())
    return StoredObject(blob.name, blob.etag.strip('"'), int(blob.size), age)


_EXPIRED = frozenset({"AuthenticationFailed", "InvalidAuthenticationInfo", "ExpiredAuthenticationToken"})
_NO_CONTAINER = f"create the container, or correct its name, the account or {_CONNECTION}"
_RIGHTS = "the role needs Storage Blob Data Contributor there, to read alone Storage Blob Data Reader"
_REMEDIES = {
    "ContainerNotFound": _NO_CONTAINER,
    "ContainerBeingDeleted": _NO_CONTAINER,
    "AccountIsDisabled": "the account is disabled: ask whoever pays for it",
    **dict.fromkeys(_EXPIRED, f"the credentials have expired or are wrong: renew them ({_CREDENTIALS}) and run again"),
}


def _answer(error: Any, what: str) -> Exception:
    """Say what an answer that is no success means."""
    named = getattr(error, "error_code", None)
    code = str(getattr(named, "value", None) or named or "")
    status, headers = int(error.status_code), dict(error.response.headers)
    if code in ("BlobAlreadyExists", "ConditionNotMet", "UnauthorizedBlobOverwrite") or status == 412:
        return FileExistsError(what)
    if status == 416:
        return EOFError(what)
    if status == 404 and not code.startswith("Container"):
        return FileNotFoundError(what)
    if code == "InvalidBlockList":
        return _BlocksGoneError(what)
    if code not in _REMEDIES and (status in (408, 409, 429) or status >= 500):
        return overloaded(what, f"{status} {code}".strip())
    ahead = seconds_ahead(headers)
    if status in (401, 403) and ahead is not None and abs(ahead) > SKEW:
        remedy = clock(ahead)
    else:
        remedy = _REMEDIES.get(code, _RIGHTS if status == 403 else "see the account's own log")
    return refused(what, f"{status} {code}".strip(), _message(error), remedy)


def _message(error: Any) -> str:
    """Return the store's sentence, without the request's number and time."""
    return str(getattr(error, "reason", None) or error.message).partition("RequestId:")[0]


def _close_where_it_was_opened(filesystem: Any) -> None:
    """Let adlfs close its connections at the end of this process only.

    It asks a loop to do it that does not run in a forked child, which then would never end.
    """
    finalizers = cast("dict[weakref.finalize[..., Any], Any]", vars(weakref.finalize)["_registry"])  # the only way
    for finalizer in list(finalizers):
        if (alive := finalizer.peek()) and alive[0] is filesystem:
            finalizer.detach()
    opened = [filesystem.service_client, *([filesystem.credential] if hasattr(filesystem.credential, "close") else [])]
    weakref.finalize(filesystem, _close, opened, filesystem.loop, os.getpid())


def _close(opened: list[Any], loop: asyncio.AbstractEventLoop, process: int) -> None:
    async def close() -> None:
        for client in opened:
            await client.close()

    if process == os.getpid():
        close_on(loop, close)
