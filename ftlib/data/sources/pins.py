"""The sha256 of files that were read before, kept in the workspace: what has not changed is not read again.

<root>/pins/<source>.json       of the last listing of a source; deleting it costs time and nothing else
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ftlib.config import Config
from ftlib.data.listed import FileVersion, ListedFile, PinnedAlready
from ftlib.data.sources import Source
from ftlib.fingerprint import digest, identify
from ftlib.storage.files import local_errors
from ftlib.workspace import Workspace, write_durably


class _Pins(Config):
    at: float
    files: tuple[tuple[str, str, int, str], ...]
    """uri, version, bytes, sha256."""


def pin(source: Source, work: Workspace, listed: Sequence[ListedFile] | None = None) -> tuple[FileVersion, ...]:
    """Freeze a source's listing, by default that of now, reading only files that are not known from before.

    Raises DataError as `source.pin` does, StorageError if the workspace cannot be written.
    """
    path = work.root / "pins" / f"{digest(identify(source))[:16]}.json"
    now = time.time()
    with local_errors(path):
        earlier = _read(path)
    files = source.pin(listed, earlier)
    pins = _Pins(at=now, files=tuple((file.uri, file.version, file.bytes, file.sha256) for file in files))
    write_durably(path, pins.model_dump_json().encode())
    return files


def _read(path: Path) -> PinnedAlready | None:
    try:
        pins = _Pins.model_validate_json(path.read_bytes())
    except (
        FileNotFoundError,
        NotADirectoryError,
        ValidationError,
    ):  # damaged is as good as absent: everything is read again
        return None
    if pins.at > time.time():  # a clock was ahead: it cannot tell which files were written since
        return None
    return PinnedAlready({(uri, version, size): sha256 for uri, version, size, sha256 in pins.files}, pins.at)
