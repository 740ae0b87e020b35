"""A registry in a local or shared folder."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config
from ftlib.storage import Place, Store, open_store


class Folder(Config):
    """A registry in a folder."""

    kind: Literal["folder"] = "folder"
    path: str = "registry"
    """The registry's folder; a relative one counts from the current folder."""

    def place(self) -> Place:
        """Return where it is."""
        return Place("", "", self.path)

    def store(self) -> Store:
        """Open it; nothing is touched yet."""
        return open_store(self.place())
