"""Small create-only records: JSON that says on its first line what the sha256 of the rest is.

A byte that flips in a bucket or on a disk may leave a commit that still parses and names another version, or an alias
that means another one. So every record is sealed when it is written, and opened only if the seal fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TypeVar

from pydantic import ValidationError

from ftlib.config import Config
from ftlib.errors import IntegrityError
from ftlib.storage.store import Store

C = TypeVar("C", bound=Config)

_SEAL = b'{\n "sha256": "%b",'
_SEAL_BYTES = len(_SEAL % (b"0" * 64))


def record_bytes(record: Config, indent: int | None = 1) -> bytes:
    """Return the bytes a record is stored as: one JSON object, whose first field is the sha256 of what follows it."""
    body = record.model_dump_json(indent=indent).encode()[1:]
    return _seal(body) + body


def read_record(store: Store, path: str, kind: type[C]) -> C | None:
    """Return a record, or None if there is none. Raises IntegrityError if it is damaged or not one of this kind."""
    data = read_sealed(store, path)
    return None if data is None else parse(kind, b"{" + data[_SEAL_BYTES:], f"{store.uri}/{path}")


def read_sealed(store: Store, path: str) -> bytes | None:
    """Return a record's bytes as they lie there, or None if there is none.

    Raises IntegrityError if the seal does not fit.
    """
    data = read_whole(store, path, _fits)
    if data is None or _fits(data):
        return data
    raise IntegrityError(
        f"{store.uri}/{path} has other bytes than were written, or is no record of this format: restore it from a copy "
        "(an earlier version of the object, a backup); nothing was changed"
    )


def read_whole(store: Store, path: str, is_whole: Callable[[bytes], bool]) -> bytes | None:
    """Return a small object's bytes, read again if they are not whole: the way may have harmed them, not the store."""
    data = store.read(path)
    return data if data is None or is_whole(data) else store.read(path)


def parse(kind: type[C], data: bytes, where: str) -> C:
    """Read a record's JSON. Raises IntegrityError if it is not one."""
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        raise IntegrityError(
            f"{where} is not a {kind.__name__} record ({f'{field}: ' if field else ''}{message}): it was damaged, or "
            "written by a newer version: restore it from a copy, or install the newest reglage"
        ) from error


def _fits(data: bytes) -> bool:
    return data[:_SEAL_BYTES] == _seal(data[_SEAL_BYTES:])


def _seal(body: bytes) -> bytes:
    return _SEAL % hashlib.sha256(body).hexdigest().encode()
