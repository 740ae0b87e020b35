"""Which code this is: the commit and the lock it was made from, whatever way it was installed.

A checkout asks its own git, each time. Whatever is built (a wheel, an sdist, an image) carries the answer of the
moment it was built in `ftlib/built_from.json`, which `setup.py` writes by this file; so it needs the standard library
alone. Where nobody can say, the word is `unknown`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

UNKNOWN = "unknown"
BUILT = Path("ftlib", "built_from.json")
COMMIT = "REGLAGE_COMMIT"
"""Names the commit where a build does not see the repository, as in an image."""

_SOURCE = Path(__file__).resolve().parents[1]


class Origin(NamedTuple):
    """Where the code comes from."""

    commit: str
    """The commit's hash, with `-dirty` behind it if tracked files differ from it; or `unknown`."""
    lock_sha256: str
    """Digest of the `requirements.lock` beside the code; or `unknown`."""
    checkout: bool
    """Whether it runs from a checkout, rather than from what was built."""


def origin(source: Path = _SOURCE) -> Origin:
    """Return where the code below a folder comes from: asked of its own git, or read from what its build wrote."""
    lock = source / "requirements.lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else UNKNOWN
    if (source / ".git").exists():  # a folder around it may be a repository, too, of something else
        return Origin(_described(source), digest, checkout=True)
    try:
        built = json.loads((source / BUILT).read_bytes())
        return Origin(str(built["commit"]), str(built["lock_sha256"]), checkout=False)
    except (OSError, ValueError, TypeError, KeyError):
        return Origin(UNKNOWN, digest, checkout=False)


def write_origin(built: Path, source: Path = _SOURCE) -> None:
    """Write, into the packages that a build has laid out, where they come from.

    `REGLAGE_COMMIT` comes before what git says. Raises ValueError if it is no commit.
    """
    named = os.environ.get(COMMIT, "")
    if named and not re.fullmatch(r"[0-9a-f]{7,64}(-dirty)?", named):
        raise ValueError(
            f"{COMMIT} is {named!r}, which is no commit; give what `git rev-parse HEAD` prints, or unset it"
        )
    found = origin(source)
    facts = {"commit": named or found.commit, "lock_sha256": found.lock_sha256}
    (built / BUILT).write_text(json.dumps(facts) + "\n", encoding="utf-8")


def _described(checkout: Path) -> str:
    if not shutil.which("git"):
        return UNKNOWN
    words = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or UNKNOWN  # git refuses a checkout of another user
