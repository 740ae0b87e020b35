"""Where bytes are, parsed once: a folder, or a prefix of a bucket behind a server. Nothing else reads a URI's parts."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftlib.errors import StorageError
from ftlib.urls import secret_in

SCHEMES = {"s3": "bucket", "gs": "bucket", "abfs": "container"}
"""Of buckets, and what those are called. A new one is a file for its service, and a line here and in the package."""
_WRITTEN_TOO = {"abfss": "abfs"}
"""As Azure's own tools write it: the two mean the same place, which is reached by TLS."""
ALLOWED = ", ".join(["a folder's path", *(f"{scheme}://{bucket}/prefix" for scheme, bucket in SCHEMES.items())])

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+-]*:/")
"""What begins like a URI, whole or misspelt as `s3:/bucket`: as a folder's path it would make folders that nobody
meant. A folder that is called so is written `./s3:/...`."""

_FOLDERS = [f"{scheme}://{bucket}/folder" for scheme, bucket in SCHEMES.items()]
FOLDERS = f"{', '.join(_FOLDERS[:-1])} or {_FOLDERS[-1]}"


@dataclass(frozen=True)
class Place:
    """A folder of this machine, or what begins with a key in a bucket."""

    scheme: str
    """Empty for a folder."""
    bucket: str
    """Of Azure the container, with the account's host where it was written: `rows@account.dfs.core.windows.net`."""
    key: str
    """A folder's path, or the part behind the bucket, as it was written."""
    endpoint_url: str | None = None
    """Of an S3 server that is not AWS: the place's, and that of places in buckets beside it. Others have variables."""
    kms_key: str | None = None
    """What its store encrypts with (`ftlib.storage.encryption`); None: what this process asks for, if anything."""

    @classmethod
    def parse(cls, uri: str, endpoint_url: str | None = None, kms_key: str | None = None) -> Place:
        """Take a URI or a path apart. Raises StorageError for a scheme that none of ours is, or a secret in it."""
        check_no_secret(uri)  # first: a key with slashes would be cut into a bucket and a prefix
        scheme, separator, rest = uri.partition("://")
        if not separator and not _SCHEME.match(uri):
            return cls("", "", uri, endpoint_url, kms_key)
        scheme = _WRITTEN_TOO.get(scheme, scheme)
        bucket, _, key = rest.partition("/")
        if scheme not in SCHEMES or not bucket:
            raise StorageError(f"{uri!r} is no storage this can open; allowed are {ALLOWED}")
        return cls(scheme, bucket, key, endpoint_url, kms_key)

    def beside(self, uri: str) -> Place:
        """Take another URI apart, of the same server if it is in a bucket. Raises what `parse` raises."""
        return Place.parse(uri, self.endpoint_url, self.kms_key)

    @property
    def remote(self) -> bool:
        """Say whether it is in a bucket."""
        return bool(self.scheme)

    @property
    def prefix(self) -> str:
        """Return the key without slashes around it: that of a store."""
        return self.key.strip("/")

    @property
    def root(self) -> str:
        """Return what stands before every key's URI: `s3://bucket/`; empty for a folder."""
        return f"{self.scheme}://{self.bucket}/" if self.scheme else ""

    @property
    def uri(self) -> str:
        """Return it as one line, as it was written, without the server."""
        return self.root + self.key

    def folder(self) -> str:
        """Return the key of a bucket's folder, with a slash behind it. Raises StorageError if it is no such place."""
        if not self.scheme or not self.prefix:
            raise StorageError(f"{self.uri!r} names no folder of a bucket; write {FOLDERS}")
        return f"{self.prefix}/"

    def server_option(self) -> str:
        """Return the option of the command line that names the server, with a space before it; empty for none."""
        return f" --endpoint-url {self.endpoint_url}" if self.endpoint_url and self.scheme in ("", "s3") else ""


def is_remote(text: str) -> bool:
    """Say whether what a user wrote where a folder may stand too is meant to be in a bucket.

    Raises StorageError for a scheme that none of ours is: no folder is meant by it.
    """
    if text.startswith(tuple(f"{scheme}://" for scheme in (*SCHEMES, *_WRITTEN_TOO))):
        return True
    if _SCHEME.match(text):
        raise StorageError(f"{text!r} is no storage this can open; allowed are {ALLOWED}")
    return False


def check_no_secret(url: str) -> None:
    """Raise StorageError if a place's URL gives a secret away."""
    if secret := secret_in(url):
        raise StorageError(
            f"this place is {secret}: it would stand in records and logs; leave it out, and give credentials as every "
            "tool of the service reads them, for S3 by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or ~/.aws"
        )
