"""Réglage's folder in the user's cache, and in it this node's own, before work places in buckets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.files import local_errors, private_folder


def user_cache() -> Path:
    """Return where Réglage's folder in the user's cache is, or will be. Raises StorageError where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "reglage"
    except RuntimeError as error:
        raise StorageError(f"no folder for caches: {error}; set HOME or XDG_CACHE_HOME") from error


def cache_root() -> Path:
    """Return this node's cache. Raises StorageError where there is no home."""
    asked = os.environ.get("REGLAGE_CACHE")
    return Path(asked).expanduser().absolute() if asked else user_cache() / "node"


def another_disk(path: Path) -> str:
    """Return how a user chooses another disk for a file of a run: it is in this node's cache, or in a work folder."""
    with suppress(StorageError):
        if path.is_relative_to(cache_root()):
            return "set REGLAGE_CACHE to a folder on another disk"
    return "choose another --work"


def make_cache(folder: Path) -> Path:
    """Make a folder of the user's cache, for this user alone, and return it.

    Raises StorageError where it cannot be written.
    """
    with local_errors(folder, elsewhere="set XDG_CACHE_HOME to another folder"):
        private_folder(folder)
    return folder
