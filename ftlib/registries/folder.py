"""A registry in a local or shared folder."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config


class Folder(Config):
    """A registry in a folder."""

    kind: Literal["folder"] = "folder"
    path: str = "registry"
