"""Call a row's script in a process of its own: `python -m benchmarks.evidence.measure TASK.json OUTCOME.json`.

A row's `measure: module:function` is a function of (seed, work folder, settings) that returns `Measured`: what it says
of each of the row's arms, by the metrics of the row's comparisons. Where it can it trains through the product, by
`benchmarks.evidence.trial.ran`, so that work which is done already is found again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from benchmarks.evidence.points import Measured
from benchmarks.evidence.trial import MachineFailed
from ftlib.errors import TransientError

Measure = Callable[[int, Path, Mapping[str, Any]], Measured]


def find(measure: str) -> Measure:
    """Return the function that `module:function` names. Raises ImportError, AttributeError."""
    module, _, name = measure.partition(":")
    return cast("Measure", getattr(import_module(module), name))


def main(given: Path, returned: Path) -> None:
    """Measure what the task says, and write what came of it."""
    task = json.loads(given.read_text(encoding="utf-8"))
    settings = {**task["settings"], "larger": True} if task["larger"] else task["settings"]
    told = find(task["measure"])(task["seed"], Path(task["work"]), settings)
    returned.write_text(told.model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(*map(Path, sys.argv[1:]))
    except MachineFailed as failed:
        print(failed, file=sys.stderr)
        sys.exit(TransientError.exit_code)
