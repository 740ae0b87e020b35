"""Where the command `reglage` begins: it looks whether packages of common names are Réglage's.

`flows`, `tasks` and `deployments` are also what Prefect projects call their own folders. None of our processes looks
into the working folder first, but a PYTHONPATH that names a project's folder still comes before what is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the command line, or say in one line by what it is shadowed and end with exit code 2."""
    for name in ("flows", "tasks", "deployments"):
        if (other := shadowing(name)) is not None:
            print(
                f"reglage: Python finds another package {name!r}, {other}, before Réglage's in {_HOME}: take it "
                "out of PYTHONPATH, or rename it",
                file=sys.stderr,
            )
            sys.exit(2)
    importlib.import_module("flows.command_line.main").main()


def shadowing(name: str) -> str | None:
    """Return what Python finds in the place of one of Réglage's packages; None if it finds ours."""
    spec = importlib.util.find_spec(name)
    places = [] if spec is None else [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    if _HOME / name in places:
        return None
    return str(places[0] if places else spec.origin if spec else "nothing")


if __name__ == "__main__":
    main()
