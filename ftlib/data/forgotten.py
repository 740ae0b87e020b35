"""Rows that are to be forgotten, by a digest of their keys: what ingestion leaves out although a source still has it.

<work>/forgotten/<digest>.json    one request: which keys, of which dataset, and the rows that they had; never changed

A digest and no key, so that the list of what was forgotten does not remember it. Whoever has a key can ask whether it
is on the list, and keys that are few can all be asked: the list is as private as a version's index of rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

from pydantic import ValidationError

from ftlib.config import Config, Name
from ftlib.data.row_keys import row_key
from ftlib.data.rows import Value
from ftlib.errors import StorageError
from ftlib.fingerprint import digest, identify
from ftlib.storage.files import local_errors
from ftlib.workspace import Workspace, write_durably

FOLDER = "forgotten"
_SALT = b"reglage forget"


class ForgetRequest(Config):
    """What is to be forgotten, from when it was asked for on."""

    keys: dict[str, tuple[str, ...]]
    """By `digest_of_key`, the ids of the rows that had the key when it was asked for: what is left of them is found by
    it."""
    learnt: dict[str, tuple[str, ...]] = {}
    """By the same digest, the versions that a row with the key trained: which ones is asked of their indexes by the key
    itself, which is known only now, and holds where no snapshot is left."""
    dataset: Name | None = None
    """The dataset whose rows these keys name; None: those of every dataset with a key."""
    at: str
    """When, as an ISO 8601 moment."""
    by: str
    """Who asked."""

    @property
    def name(self) -> str:
        """Return the name of its file: equal requests are one."""
        about = [self.keys, self.dataset, *([self.learnt] if self.learnt else [])]
        return f"{digest(identify(about))[:16]}.json"


def digest_of_key(value: Value) -> str | None:
    """Return what stands for a key on the list, 32 hex digits; None for a value that is no key."""
    key = row_key(value)
    if key is None:
        return None
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16, key=_SALT).hexdigest()


def is_forgotten(keys: Iterable[Value], excluded: Collection[str]) -> bool:
    """Say whether a row with these keys is to be left out."""
    return any(digest_of_key(key) in excluded for key in keys)


def read_requests(work: Workspace) -> list[ForgetRequest]:
    """Return everything that a work place was asked to forget. Raises StorageError for a record that is damaged."""
    requests: list[ForgetRequest] = []
    for name in work.names(FOLDER):
        if not name.endswith(".json"):
            continue
        with local_errors(path := work.shared(f"{FOLDER}/{name}")):
            text = path.read_bytes()
        try:
            requests.append(ForgetRequest.model_validate_json(text))
        except ValidationError as error:
            raise StorageError(
                f"{path} is damaged ({error.error_count()} errors), and says which rows must not come back; restore "
                "it from a copy, or ask for the same keys again and then delete it"
            ) from error
    return requests


def write_request(work: Workspace, request: ForgetRequest) -> None:
    """Put a request on the list, once. Raises StorageError where it cannot be written."""
    path = work.shared(relative := f"{FOLDER}/{request.name}")
    if not path.is_file():
        write_durably(path, request.model_dump_json(indent=1).encode())
        work.share(relative)


def excluded(requests: Iterable[ForgetRequest], dataset: str) -> tuple[str, ...]:
    """Return the digests of the keys that a dataset is ingested without, sorted."""
    return tuple(sorted({key for one in requests if one.dataset in (None, dataset) for key in one.keys}))
