"""What became slower or larger than what the baselines hold: `python -m benchmarks.fallen`.

The newest record of every setting (benchmark, model, batch, rows, card) is compared with the best one before it on the
same card: speed may fall by 15 %, memory grow by 1 %. Ends with 1 where more was lost.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.gpu_train import BASELINES

SPEED, MEMORY = 0.15, 0.01
"""Shares that a figure may lose."""
OURS = "reglage"
_SAME = ("model", "batch_size", "steps", "tokens", "gpu")
"""Settings by which two records measure the same."""


@dataclass(frozen=True)
class Loss:
    """One figure that is worse than it was by more than it may be."""

    setting: str
    what: str
    before: float
    now: float

    def __str__(self) -> str:
        change = self.now / self.before - 1
        return f"{self.setting}: {self.what} {self.before:,.0f} before, {self.now:,.0f} now ({change:+.1%})"


@click.command()
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path), default=BASELINES)
def main(path: Path) -> None:
    """Say which figures of PATH, a record of JSON a line, fell; by default the GPU's baselines."""
    records = read(path)
    losses = list(lost(records))
    for loss in losses:
        print(loss)
    if not losses:
        print(
            f"{path}: nothing of {len(records)} records fell by more than {SPEED:.0%} (speed) or {MEMORY:.0%} (memory)"
        )
    sys.exit(bool(losses))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the records. Raises ClickException for a line that is none, with its number."""
    records: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            record = json.loads(line)
            records.append({**record, "settings": dict(record["settings"]), "ratios": dict(record["ratios"])})
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(
                f"{path}:{number} is no record of a benchmark ({type(error).__name__}: {error}); remove the line"
            ) from error
    return records


def lost(records: Sequence[dict[str, Any]]) -> Iterator[Loss]:
    """Yield what the newest record of each setting lost to the best before it; records are in the order of time."""
    by_setting: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        said = [record["benchmark"], *(f"{key} {record['settings'].get(key)}" for key in _SAME)]
        by_setting.setdefault(", ".join(said), []).append(record["ratios"])
    for setting, measured in by_setting.items():
        *before, now = measured
        for what, better, allowed in (("tokens_per_second", max, SPEED), ("peak_gpu_bytes", min, MEMORY)):
            figures = [ratios[what][OURS] for ratios in before if OURS in ratios.get(what, {})]
            if not figures or OURS not in now.get(what, {}):
                continue
            best, figure = better(figures), now[what][OURS]
            if (best - figure if better is max else figure - best) > allowed * best:
                yield Loss(setting, what, best, figure)


if __name__ == "__main__":
    main()
