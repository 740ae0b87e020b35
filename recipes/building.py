"""What the builders of this folder have in common: rows or a model written to a folder, by a command, once."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from ftlib.errors import ReglageError, StorageError


def build_once(name: str, out: Path, last: Path, write: Callable[[], str]) -> int:
    """Write `out`, unless its `last` file says that it is whole, and print what `write` says; return the exit code.

    An error is one line on stderr that begins with the builder's `name`.
    """
    if last.is_file():
        print(f"{out} is there already")
        return 0
    try:
        words = write()
    except ReglageError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"{name}: {error.filename or out}: {error.strerror or error}", file=sys.stderr)
        return StorageError.exit_code
    print(": ".join(filter(None, [f"wrote {out}", words])))
    return 0
