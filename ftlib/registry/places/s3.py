"""A registry in an S3 bucket."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config
from ftlib.storage import Place, Store, open_store


class S3(Config):
    """A registry under a prefix of any S3 store that honours `If-None-Match`. Credentials come from the environment."""

    kind: Literal["s3"] = "s3"
    bucket: str
    """The bucket's name alone."""
    prefix: str = ""
    """What all of the registry's keys begin with; empty, it has the bucket for itself."""
    endpoint_url: str | None = None
    """Of an S3 server that is not AWS."""

    def place(self) -> Place:
        """Return where it is."""
        return Place("s3", self.bucket, self.prefix, self.endpoint_url)

    def store(self) -> Store:
        """Open it; nothing is touched yet."""
        return open_store(self.place())
