"""What a failed S3 request means, whatever the server and the client made of it."""

from __future__ import annotations

import errno
import os
import time
from email.utils import parsedate_to_datetime
from typing import Any, cast

from ftlib.errors import ReglageError, StorageError, TransientError
from ftlib.urls import redacted

_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",  # CompleteMultipartUpload says so with status 200
        "OperationAborted",
        "RequestLimitExceeded",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "XAmzContentSHA256Mismatch",
    }
)
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
_EXPIRED = frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "TokenRefreshRequired"})
_REMEDIES = {
    "AccessDenied": "the role needs s3:GetObject, s3:PutObject and s3:ListBucket there",
    "403": "the role needs s3:GetObject, s3:PutObject and s3:ListBucket there",
    "ExpiredToken": "the credentials have expired: renew them and run again",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "SignatureDoesNotMatch": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "NoSuchBucket": "create the bucket, or correct its name or the endpoint",
    "KMS.DisabledException": "enable the KMS key, or correct encryption.kms_key",
    "KMS.NotFoundException": "there is no such KMS key in the bucket's region: correct encryption.kms_key",
    **dict.fromkeys(
        ("PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"),
        "the bucket is in another region: set AWS_REGION to its own, which the store's console and log say",
    ),
    "NotImplemented": "this server lacks a call the registry needs; use another store",
}


def meaning(error: Exception, what: str) -> Exception:
    """Say what a failed request means: absent, there already, worth a retry, or for a person to mend.

    FileNotFoundError, FileExistsError, EOFError for a range beyond the end, TransientError, StorageError; anything
    else is a bug and comes back as it is.
    """
    from aiohttp import ClientPayloadError
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError, IncompleteReadError
    from botocore.parsers import ResponseParserError

    if isinstance(error, ClientError):
        return _answer(cast("dict[str, Any]", error.response), what)
    if isinstance(error, OSError) and error.errno in _DISK:  # of the file that is downloaded to
        return error
    network = (HTTPClientError, ConnectionError, IncompleteReadError, ResponseParserError, ClientPayloadError, OSError)
    if isinstance(error, network):
        return TransientError(f"{what}: {_line(error)}; check the endpoint and the network, then run again{_server()}")
    if isinstance(error, BotoCoreError):
        return StorageError(f"{what}: {_line(error)}; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION")
    return error


def _server() -> str:
    """Say where the endpoint came from, where the environment names one: that is easily forgotten."""
    named = next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), None)
    return f" ({named} is {redacted(os.environ[named])})" if named else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def has_expired(error: Exception) -> bool:
    """Say whether the credentials were refused in a way that reading them anew can mend: they expire, and rotate."""
    from botocore.exceptions import ClientError

    return isinstance(error, ClientError) and error.response.get("Error", {}).get("Code") in _EXPIRED


def _answer(response: dict[str, Any], what: str) -> ReglageError | FileNotFoundError | FileExistsError | EOFError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in ("PreconditionFailed", "412"):
        return FileExistsError(what)
    if code in ("NoSuchKey", "NoSuchUpload", "404", "NotFound"):
        return FileNotFoundError(what)
    if code in ("InvalidRange", "416"):
        return EOFError(what)
    if code in _TRANSIENT_CODES or status in (409, 429) or (status >= 500 and status != 501):
        return TransientError(f"{what}: the store answered {code or status}; it may be overloaded: run again later")
    remedy = _clock(response) if code == "RequestTimeTooSkewed" else _REMEDIES.get(code, "see the store's own log")
    if code == "AccessDenied" and "kms:" in str(response["Error"].get("Message")):
        remedy = "the role needs kms:GenerateDataKey and kms:Decrypt for the key"
    message = " ".join(str(response.get("Error", {}).get("Message") or "").split()).rstrip(".")
    return StorageError(f"{what}: the store answered {code or status}{f' ({message})' if message else ''}; {remedy}")


def _clock(response: dict[str, Any]) -> str:
    date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    if date is None:
        return "this machine's clock is wrong: set it"
    ahead = time.time() - parsedate_to_datetime(date).timestamp()
    return f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the store's: set it"
