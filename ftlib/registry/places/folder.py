"""A registry in a local or shared folder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from ftlib.config import Config
from ftlib.storage.local import LocalStore
from ftlib.storage.store import Store


class Folder(Config):
    """A registry in a folder."""

    kind: Literal["folder"] = "folder"
    path: str = "registry"
    """The registry's folder; a relative one counts from the current folder."""

    endpoint_url: ClassVar[str | None] = None
    """It has no server."""

    def store(self) -> Store:
        """Open it; nothing is touched yet."""
        return LocalStore(Path(self.path))
