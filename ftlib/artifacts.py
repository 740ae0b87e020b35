"""What stages hand to each other: a reference, a fingerprint and the few facts that the next stage checks.

Data is written first and its record last, so a folder without `artifact.json` does not exist (see `workspace.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ftlib.fingerprint import Identified


class Artifact(Identified):
    """The record of a finished stage."""

    schema_version: Literal[1] = 1
    uri: str = ""
    """The folder that holds it, as an absolute path; not part of the identity."""
    fingerprint: str = ""
    """The job that made it."""
    seconds: float = 0.0
    """The stage's own wall time when it was made; not part of the identity."""

    @property
    def path(self) -> Path:
        """Return the artifact's folder."""
        return Path(self.uri)
