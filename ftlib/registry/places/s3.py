"""A registry in an S3 bucket."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config
from ftlib.storage.s3 import S3Store
from ftlib.storage.store import Store


class S3(Config):
    """A registry under a prefix of any S3 store that honours `If-None-Match`. Credentials come from the environment."""

    kind: Literal["s3"] = "s3"
    bucket: str
    """The bucket's name alone."""
    prefix: str = ""
    """What all of the registry's keys begin with; empty, it has the bucket for itself."""
    endpoint_url: str | None = None
    """Of an S3 server that is not AWS."""

    def store(self) -> Store:
        """Open it; nothing is touched yet."""
        return S3Store(self.bucket, self.prefix, self.endpoint_url)
