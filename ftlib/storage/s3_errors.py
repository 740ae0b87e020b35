"""What a failed S3 request means, whatever the server and the client made of it."""

from __future__ import annotations

from typing import Any, cast

from ftlib.errors import ReglageError, StorageError, TransientError

_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",
        "ConditionalRequestConflict",
        "IncompleteBody",
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
_REMEDIES = {
    "AccessDenied": "the role needs s3:GetObject, s3:PutObject and s3:ListBucket there",
    "403": "the role needs s3:GetObject, s3:PutObject and s3:ListBucket there",
    "ExpiredToken": "the credentials have expired: renew them and run again",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "SignatureDoesNotMatch": "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "NoSuchBucket": "create the bucket, or correct its name or the endpoint",
    "NotImplemented": "this server lacks a call the registry needs; use another store",
}


def meaning(error: Exception, what: str) -> Exception:
    """Say what a failed request means: absent, there already, worth a retry, or for a person to mend.

    FileNotFoundError, FileExistsError, TransientError, StorageError; anything else is a bug and comes back as it is.
    """
    from botocore.exceptions import BotoCoreError, FlexibleChecksumError, HTTPClientError, IncompleteReadError
    from s3fs.core import S3_RETRYABLE_ERRORS

    if isinstance(error, ReglageError):
        return error
    response = _response(error)
    if response is not None:
        return _answer(response, what)
    dropped = (HTTPClientError, FlexibleChecksumError, IncompleteReadError, *S3_RETRYABLE_ERRORS)
    if isinstance(error, (ConnectionError, TimeoutError, *dropped)) or "ConnectionError" in type(error).__name__:
        return TransientError(f"{what}: {error}; check the endpoint and the network, then run again")
    if isinstance(error, BotoCoreError):
        return StorageError(f"{what}: {error}; set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION")
    if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, FileExistsError)):
        return StorageError(f"{what}: {error}; see the store's own log")
    return error


def _answer(response: dict[str, Any], what: str) -> ReglageError | FileNotFoundError | FileExistsError:
    code = str(response.get("Error", {}).get("Code", ""))
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in ("PreconditionFailed", "412"):
        return FileExistsError(what)
    if code in ("NoSuchKey", "NoSuchUpload", "404", "NotFound"):
        return FileNotFoundError(what)
    if code in _TRANSIENT_CODES or status in (409, 429) or (status >= 500 and status != 501):
        return TransientError(f"{what}: the store answered {code or status}; it may be overloaded: run again later")
    remedy = _REMEDIES.get(code, "see the store's own log")
    message = str(response.get("Error", {}).get("Message", "")).strip().rstrip(".")
    return StorageError(f"{what}: the store answered {code or status}{f' ({message})' if message else ''}; {remedy}")


def _response(error: BaseException | None) -> dict[str, Any] | None:
    """Return the server's answer: s3fs hides it behind an OSError, differently for each server's spelling."""
    while error is not None:
        if isinstance(response := getattr(error, "response", None), dict):
            return cast("dict[str, Any]", response)
        error = error.__cause__
    return None
