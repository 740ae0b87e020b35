"""Réglage's folder in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.files import local_errors, private_folder


def user_cache() -> Path:
    """Return where Réglage's folder in the user's cache is, or will be. Raises StorageError where there is no home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "reglage"
    except RuntimeError as error:
        raise StorageError(f"no folder for caches: {error}; set HOME or XDG_CACHE_HOME") from error


def make_cache(folder: Path) -> Path:
    """Make a folder of the user's cache, for this user alone, and return it.

    Raises StorageError where it cannot be written.
    """
    with local_errors(folder, elsewhere="set XDG_CACHE_HOME to another folder"):
        private_folder(folder)
    return folder
