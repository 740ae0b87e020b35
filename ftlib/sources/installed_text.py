"""English passages that the environment already contains: docstrings and READMEs of installed libraries."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config


class InstalledText(Config):
    """Passages labelled by library: real text, with no network and no account.

    Columns: `text`, `library`, `module`. The library's own name and import paths are masked.
    """

    kind: Literal["installed_text"] = "installed_text"
    part: Literal["docstrings", "readmes"]
    libraries: tuple[str, ...]
    rows_per_library: int = 250
