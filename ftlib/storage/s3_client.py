"""Requests to an S3 server by botocore itself, without the two layers that are usual above it.

s3fs repeats each of botocore's attempts (50 requests for one reset connection) and hides the server's answer behind an
OSError; boto3's transfer manager cannot hash a file in the pass that sends it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, TypeVar, cast

from typing_extensions import override

from ftlib.errors import StorageError, first_line
from ftlib.storage.patience import Patient
from ftlib.storage.place import check_no_secret
from ftlib.storage.s3_errors import has_expired, meaning

T = TypeVar("T")

CONNECTIONS = 32
NAMES_AT_ONCE = 1000
PIECE = 2**18  # fresh buffers of megabytes cost more in page faults than the network's own work


class S3Client(Patient):
    """Sends requests of botocore's.

    Credentials and region come from the environment, as every AWS tool reads them. Raises FileNotFoundError and
    FileExistsError for what the server says so about, StorageError for what only a person can change, and
    TransientError once retries have not helped.
    """

    def __init__(self, bucket: str, endpoint_url: str | None, deadline: float) -> None:
        check_place(bucket, endpoint_url)
        super().__init__(deadline)
        self.endpoint_url = endpoint_url

    def request(self, what: str, method: str, **arguments: Any) -> dict[str, Any]:
        """Call one of botocore's methods; `what` begins the error message."""
        return self.retry(what, lambda client: cast("dict[str, Any]", getattr(client, method)(**arguments)))

    def pages(self, what: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        """Yield a listing's answers, each of up to a thousand names."""
        page: dict[str, Any] = {}
        while True:
            more = {"ContinuationToken": page["NextContinuationToken"]} if page else {}
            page = self.request(what, "list_objects_v2", MaxKeys=NAMES_AT_ONCE, **arguments, **more)
            yield page
            if not page.get("IsTruncated"):
                return

    def read(self, what: str, **arguments: Any) -> bytes:
        """Return an object's bytes, or those of a `Range`: a body that breaks off is asked for again."""

        def get(client: Any) -> bytes:
            with closing(client.get_object(**arguments)["Body"]) as body:
                return cast("bytes", body.read())

        return self.retry(what, get)

    def read_span(self, what: str, span: range, **arguments: Any) -> bytes:
        """Return the bytes of a span: fewer at the object's end, none beyond it."""
        try:
            return self.read(what, **arguments, Range=f"bytes={span.start}-{span.stop - 1}")
        except EOFError:
            return b""

    def read_into(self, file: int, span: range, what: str, **arguments: Any) -> None:
        """Write a span of an object's bytes to the same place of an open file, in pieces that stay in cache.

        A body that breaks off is asked for again from where it broke off.
        """
        position = span.start

        def get(client: Any) -> None:
            nonlocal position
            asked = client.get_object(**arguments, Range=f"bytes={position}-{span.stop - 1}")
            with closing(asked["Body"]) as body:
                while data := body.read(PIECE):
                    position += os.pwrite(file, data, position)

        self.retry(what, get)

    def attempt(self, what: str, method: str, **arguments: Any) -> bool:
        """Call a method once, for tidying up; False if it failed, which must not hide why there is anything to tidy."""
        return self.try_once(what, lambda client: getattr(client, method)(**arguments))

    @override
    def meaning(self, error: Exception, what: str) -> Exception:
        return meaning(error, what)

    @override
    def has_expired(self, error: Exception) -> bool:
        return has_expired(error)

    @override
    def connect(self) -> Any:
        client = connected(self.endpoint_url, self._connect)
        # Without --endpoint-url it comes from AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_S3 or ~/.aws/config.
        check_no_secret(client.meta.endpoint_url)
        return client

    def _connect(self) -> Any:
        """Return botocore's client, which repeats nothing itself and sends no checksum that many servers reject."""
        from botocore.config import Config
        from botocore.session import Session

        config = Config(
            retries={"mode": "standard", "total_max_attempts": 1},  # the loop here is the only one
            connect_timeout=5,
            read_timeout=min(60.0, self.deadline / 4),
            max_pool_connections=CONNECTIONS,
            # The signature covers the sha256 of what is sent, which every server checks; CRC trailers many reject.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",  # get_file compares a sha256
        )
        client: Any = Session().create_client("s3", endpoint_url=self.endpoint_url, config=config)
        for operation in ("PutObject", "UploadPart"):
            client.meta.events.register(f"before-call.s3.{operation}", _send_whole)
        # A second sha256 of every byte was a tenth of an upload. TLS keeps a part whole on its way, HTTP does not.
        if client.meta.endpoint_url.startswith("https:"):
            unsigned = config.merge(Config(s3={"payload_signing_enabled": False}))
            client.meta.events.register(
                "before-call.s3.UploadPart", lambda params, **_: params["context"].update(client_config=unsigned)
            )
        return client


def connected(endpoint_url: str | None, connect: Callable[[], T]) -> T:
    """Return what connects. Raises StorageError, which names the server, where it cannot."""
    try:
        return connect()
    except Exception as error:
        raise StorageError(
            f"no S3 client for {endpoint_url or 'AWS'}: {first_line(error)}; correct the endpoint, or the AWS_ "
            "variables and ~/.aws"
        ) from error


def check_place(bucket: str, endpoint_url: str | None) -> None:
    """Say what is wrong with a bucket's name in our words: botocore's are two lines of patterns."""
    check_no_secret(f"s3://{bucket}/")
    check_no_secret(endpoint_url or "")
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", bucket) and not re.fullmatch(r"arn:[A-Za-z0-9:._/*-]+", bucket):
        raise StorageError(
            f"{bucket!r} is no name of a bucket: allowed are letters, digits, '.', '_' and '-'; write "
            "s3://bucket/prefix, and leave keys and passwords to the environment"
        )


def _send_whole(params: dict[str, Any], **_: Any) -> None:
    """Give the socket the whole body: botocore makes a stream of it, which http.client sends in blocks of 16 KiB.

    It still asks first: a server that refuses closes the connection, and its reason is lost while we are sending.
    """
    params["body"] = params["body"].getvalue()
    if len(params["body"]) > 2**20:
        params["headers"]["Expect"] = "100-continue"
