"""What stages hand to each other: a reference, a fingerprint and the few facts that the next stage checks.

Data is written first and its record last, so an artifact without a record does not exist (see `ftlib.workspace`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ftlib.fingerprint import Identified
from ftlib.storage.node_cache import local_path


class Artifact(Identified):
    """The record of a finished stage."""

    schema_version: Literal[1] = 1
    uri: str = ""
    """Where it is: the absolute path of its folder, or `s3://bucket/work/stages/<stage>/<fingerprint>`; not part of
    the identity."""
    fingerprint: str = ""
    """The job that made it."""
    seconds: float = 0.0
    """The stage's own wall time when it was made; not part of the identity."""

    @property
    def path(self) -> Path:
        """Return the artifact's folder, as this machine sees it: of a bucket, a copy with all of its files.

        Raises StorageError where it is not there, or cannot be had whole. `local` gives a part of it.
        """
        return local_path(self.uri)

    def local(self, part: Path) -> Path:
        """Return a file or folder of the artifact as this machine sees it; of a bucket, only that part is fetched."""
        return local_path(self.uri_of(part))

    def uri_of(self, part: Path) -> str:
        """Return where a file or folder of the artifact is, by its path in it."""
        return below(self.uri, part)


def below(uri: str, part: Path) -> str:
    """Return where a part of a folder is, by its path in it, as a reference of the folder's own sort."""
    return "/".join(filter(None, [uri, *part.parts]))
