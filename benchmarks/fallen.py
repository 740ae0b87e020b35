"""What became slower or larger than what the baselines hold: `python -m benchmarks.fallen`.

The newest record of every setting is compared with the best one before it on the same machine, or card: speed may fall
by 15 %, memory grow by 1 %. Ends with 1 where more was lost.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click

from benchmarks.machine import LIBRARIES
from benchmarks.rounds import BASELINES

SPEED, MEMORY = 0.15, 0.01
"""Shares that a figure may lose."""


class Figure(NamedTuple):
    """A figure of a benchmark's record."""

    path: str
    """Where it is among the ratios: `tokens_per_second/reglage`."""
    better: Literal["more", "less"]
    may_lose: float = SPEED


FIGURES = {
    "gpu_train": (
        Figure("tokens_per_second/reglage", "more"),
        Figure("peak_gpu_bytes/reglage", "less", MEMORY),
    ),
    "train_throughput": (
        Figure("over_trainer_by_cpu_time", "more"),
        Figure("over_tuned_trainer_by_cpu_time", "more"),
        Figure("ray_over_in_process", "more"),
    ),
    "evaluation": (Figure("by_cpu_time", "less"),),
    "overhead": (Figure("fresh_overhead_seconds", "less"), Figure("cached_overhead_seconds", "less")),
    "workers": (Figure("two_over_one_samples_per_second", "more"),),
    "interpolation": (Figure("sweep_full", "less"), Figure("sweep_upper", "less"), Figure("sweep_head", "less")),
    "checkpoint_stall": (Figure("beside_over_waits", "less"),),
}
"""What is compared of each benchmark; of the others nothing is."""
_SAME = {"gpu_train": ("model", "batch_size", "steps", "tokens", "gpu")}
"""Settings by which two records measure the same, where not all of them do that are no versions."""
_VARYING = {"load_average", "targets", "python", *LIBRARIES}


@dataclass(frozen=True)
class Loss:
    """One figure that is worse than it was by more than it may be."""

    setting: str
    what: str
    before: float
    now: float

    def __str__(self) -> str:
        change = self.now / self.before - 1
        return f"{self.setting}: {self.what} {_told(self.before)} before, {_told(self.now)} now ({change:+.1%})"


def _told(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(paths: tuple[Path, ...]) -> None:
    """Say which figures of PATHS, records of JSON a line, fell; by default all baselines that are compared."""
    paths = paths or tuple(path for name in FIGURES if (path := BASELINES / f"{name}.jsonl").exists())
    records = [record for path in paths for record in read(path)]
    losses = list(lost(records))
    for loss in losses:
        print(loss)
    if not losses:
        print(
            f"{', '.join(map(str, paths))}: nothing of {len(records)} records fell by more than {SPEED:.0%} (speed) or "
            f"{MEMORY:.0%} (memory)"
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
        by_setting.setdefault(_setting(record), []).append(record)
    for setting, measured in by_setting.items():
        *before, now = measured
        for figure in FIGURES.get(now["benchmark"], ()):
            figures = [value for record in before if (value := _value(record, figure)) is not None]
            value = _value(now, figure)
            if not figures or value is None:
                continue
            best = max(figures) if figure.better == "more" else min(figures)
            if (best - value if figure.better == "more" else value - best) > figure.may_lose * best:
                yield Loss(setting, figure.path.partition("/")[0], best, value)


def _setting(record: dict[str, Any]) -> str:
    """Return what two records have in common that measure the same."""
    settings = record["settings"]
    names = _SAME.get(record["benchmark"]) or sorted(settings.keys() - _VARYING)
    return ", ".join([record["benchmark"], *(f"{name} {settings.get(name)}" for name in names)])


def _value(record: dict[str, Any], figure: Figure) -> float | None:
    found: Any = record["ratios"]
    for name in figure.path.split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


if __name__ == "__main__":
    main()
