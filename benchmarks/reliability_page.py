"""The records of kills, and the table that docs/reliability.md has of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
BASELINE = ROOT / "benchmarks" / "baselines" / "reliability.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- kills: made by `python -m benchmarks.reliability --page` -->", "<!-- end of kills -->"
HOWS = {"tree": "SIGKILL, all", "main": "SIGKILL, main process", "asked": "SIGTERM"}


@dataclass(frozen=True)
class Kill:
    """One kill, and what was there after the same command again."""

    at: str
    job: str
    how: str
    share: float
    """Of the time in which it may be killed: the draw."""
    after_seconds: float
    """After its start."""
    during: str
    """The stage that was at work, if any."""
    ended: int
    """The exit code of what was killed, negative for a signal's."""
    stay_seconds: float
    """Until the last of its processes was gone."""
    again_seconds: float
    broken: tuple[str, ...]
    """The invariants that do not hold."""
    load: float
    evidence: str = ""
    """Where the folder is kept, of a kill that broke something."""

    def kept(self, where: str) -> Kill:
        """Return it with the place of its evidence."""
        return replace(self, evidence=where)

    def record(self) -> dict[str, Any]:
        """Return what is written of it."""
        return {key: value for key, value in asdict(self).items() if key != "evidence" or value}

    def __str__(self) -> str:
        held = f"BROKE {'; '.join(self.broken)}, see {self.evidence}" if self.broken else "all holds"
        where = f" in {self.during}" if self.during else ""
        return f"{self.job}, {HOWS[self.how]}, after {self.after_seconds:g} s{where}: {held}"


def read(path: Path) -> list[Kill]:
    """Return the recorded kills, none where there is no file. Raises ClickException for a line that is none."""
    if not path.exists():
        return []
    kills: list[Kill] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            record = json.loads(line)
            kills.append(Kill(**{**record, "broken": tuple(record["broken"])}))
        except (ValueError, KeyError, TypeError) as error:
            raise click.ClickException(f"{path}:{number} is no record of a kill ({error}); remove the line") from error
    return kills


def table(kills: Sequence[Kill]) -> str:
    """Return the table in Markdown: a row a job, and their sum."""
    heads = ["killed", *HOWS.values(), "all holds", "longest stay of a process"]
    lines = [f"| {' | '.join(heads)} |", f"|---|{'---:|' * (len(heads) - 1)}"]
    for job in [*dict.fromkeys(sorted(kill.job for kill in kills)), ""]:
        of = [kill for kill in kills if job in ("", kill.job)]
        counts = [str(sum(kill.how == how for kill in of)) for how in HOWS]
        held = f"{sum(not kill.broken for kill in of)} of {len(of)}"
        stay = f"{max((kill.stay_seconds for kill in of), default=0.0):.1f} s"
        lines.append(f"| {' | '.join([f'`{job}`' if job else 'all', *counts, held, stay])} |")
    return "\n".join(lines)


def page(text: str, kills: Sequence[Kill]) -> str:
    """Return the page with its table made anew. Raises ValueError where it has no place for one."""
    load = f"{min(kill.load for kill in kills):g} to {max(kill.load for kill in kills):g}" if kills else "none"
    broken = [f"- {kill.at}: {kill}" for kill in kills if kill.broken]
    days = [*dict.fromkeys(kill.at[:10] for kill in (*kills[:1], *kills[-1:]))]
    said = f"{len(kills)} kills, {' to '.join(days)}, at load {load}." if kills else "None yet."
    parts = [said, table(kills), *(["\n".join(broken)] if broken else [])]
    return between(text, BEGIN, END, "\n\n".join(parts))


def between(text: str, begin: str, end: str, made: str) -> str:
    """Return a page with what is made between two marks made anew. Raises ValueError where it has no such marks."""
    head, begins, rest = text.partition(begin)
    _, ends, tail = rest.partition(end)
    if not begins or not ends:
        raise ValueError(f"{PAGE} has no {begin} and {end}")
    return f"{head}{begin}\n\n{made}\n\n{end}{tail}"
