"""Files of a work place beside stages' outputs, written on this machine and given to every machine."""

from __future__ import annotations

from pathlib import Path

from ftlib.workspace.records import write_durably
from ftlib.workspace.workspace import Workspace


def overwrite(work: Workspace, relative: str | Path, data: bytes) -> Path:
    """Write a file of which the newest counts, for people or as a cache: nothing is decided by it.

    Returns its local path. Raises StorageError, or TransientError where the network failed.
    """
    path = work.root / relative
    write_durably(path, data)
    work.replace(relative)
    return path


def add(work: Workspace, relative: str | Path, data: bytes) -> Path:
    """Write a file whose name no other content has. Returns and raises as `overwrite`."""
    path = work.root / relative
    write_durably(path, data)
    work.share(relative)
    return path
