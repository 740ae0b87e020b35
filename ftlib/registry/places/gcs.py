"""A registry in a bucket of Google Cloud Storage."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config
from ftlib.storage import Place, Store, open_store


class Gcs(Config):
    """A registry under a prefix of a bucket of GCS, by the extra `gcs`. Credentials are the environment's."""

    kind: Literal["gcs"] = "gcs"
    bucket: str
    """The bucket's name alone."""
    prefix: str = ""
    """What all of the registry's keys begin with; empty, it has the bucket for itself."""

    def place(self) -> Place:
        """Return where it is."""
        return Place("gs", self.bucket, self.prefix)

    def store(self) -> Store:
        """Open it; nothing is touched yet."""
        return open_store(self.place())
