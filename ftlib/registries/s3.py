"""A registry in an S3 bucket."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config


class S3(Config):
    """A registry under a prefix of any S3 store that honours `If-None-Match`. Credentials come from the environment."""

    kind: Literal["s3"] = "s3"
    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
