"""Encryption by the store, under a key that its owner manages: asked for with every write, and checked.

The key is a place's (`Place.kms_key`), as a recipe's `encryption.kms_key` says for its work place and its registry:
each store writes with its own, so one process may have several. Where a place has none, it is that of the environment
variable `REGLAGE_KMS_KEY`, which stands beside the credentials on every node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ftlib.config import Config
from ftlib.errors import RecipeError, StorageError

KMS_KEY = "REGLAGE_KMS_KEY"
"""The environment variable that names the key; Ray's workers are given it."""
KMS = "aws:kms"
WRITES = frozenset(("put_object", "create_multipart_upload", "copy_object"))
"""Calls of S3 that make an object, and take the headers that ask for encryption. Parts are encrypted as their upload
is, and a completed upload answers as it was begun."""

_KEY = re.compile(r"[A-Za-z0-9:/_.+-]{1,2048}")


class Encryption(Config):
    """How a store encrypts what a run writes to it."""

    kms_key: str | None = None
    """The key that the store encrypts with, as S3 takes it (SSE-KMS): its id, its ARN, or alias/NAME. The work place
    and the registry are written with it; null: as the bucket is set up."""


def asked_key(place_key: str | None = None) -> str | None:
    """Return the key to write with: the place's own, else this process's; None: as the bucket is set up.

    Raises StorageError for what can be no key.
    """
    key = place_key or os.environ.get(KMS_KEY) or None
    if key is not None and not _KEY.fullmatch(key):
        raise StorageError(f"{key!r} is no KMS key: allowed are a key's id, its ARN or alias/NAME; correct {KMS_KEY}")
    return key


def check_one_key(key: str | None) -> None:
    """Raise RecipeError if a recipe asks for another key than this process's environment."""
    before = os.environ.get(KMS_KEY)
    if key and before and before != key:
        raise RecipeError(
            f"encryption.kms_key: the recipe asks for {key!r}, and {KMS_KEY} for {before!r}; what is written has one "
            f"key: unset {KMS_KEY}, or make them the same"
        )


def environment(place_key: str | None = None) -> dict[str, str]:
    """Return what a process on another machine, which works for one place, needs to write with the same key."""
    return {KMS_KEY: key} if (key := place_key or os.environ.get(KMS_KEY)) else {}


def headers(key: str) -> dict[str, Any]:
    """Return the arguments of a write that ask S3 for the key; a bucket key spares a call of KMS for every object."""
    return {"ServerSideEncryption": KMS, "SSEKMSKeyId": key, "BucketKeyEnabled": True}


def check_encrypted(answer: Mapping[str, Any], key: str, uri: str) -> None:
    """Raise StorageError unless a store's answer says that an object is encrypted with the key.

    An alias is answered by the key that it means, so of an alias only the kind of encryption is compared.
    """
    kind, used = answer.get("ServerSideEncryption"), str(answer.get("SSEKMSKeyId") or "")
    named = key.rpartition("/")[2]
    if kind == KMS and (not used or ":alias/" in f":{key}" or used.rpartition("/")[2] == named):
        return
    how = f"encrypts with {kind}{f' by {used}' * bool(used)}" if kind else "ignores what it is asked"
    raise StorageError(
        f"{uri}: encryption with the KMS key {key!r} was asked for, and the store {how}; use a store with SSE-KMS, or "
        "leave out encryption.kms_key"
    )
