"""A stand-in until the work place's own is merged."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from ftlib.storage.place import Place


class _View:
    def __init__(self, root: Path) -> None:
        self.root = root


def local_path(uri: str) -> Path:
    """Return what a reference names as this node sees it."""
    return Path(uri)


def node_view(place: Place) -> _View:
    """Return this node's view of a work place."""
    root = Path(os.environ.get("REGLAGE_CACHE") or "~/.cache/reglage/node").expanduser()
    return _View(root / "work" / hashlib.sha256(place.uri.encode()).hexdigest()[:16])
