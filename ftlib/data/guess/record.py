"""What is guessed of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ftlib.config import BatchKind, Config
from ftlib.wording import counted


class LogRows(Config):
    """What one dataset reads of a feedback log."""

    gives: Literal["corrections", "thumbs", "pairs"]
    kind: BatchKind
    format: dict[str, Any]
    key: str
    """The column of the request's id."""
    rows: int
    """How many there are among what was looked at; 0: as many as the others make."""
    up: int = 0
    down: int = 0
    """Of thumbs, how many are which."""

    @property
    def told(self) -> str:
        """Say how many rows these are."""
        if self.up or self.down:
            return f"{self.up:,} thumbs up, {self.down:,} down"
        return (
            f"{counted(self.rows, 'request')} that somebody corrected" if self.rows else "of the others, measured alone"
        )


class Guess(Config):
    """What a dataset of a recipe says, each part as YAML has it, with what speaks for it."""

    kind: BatchKind
    source: dict[str, Any]
    format: dict[str, Any]
    split: dict[str, Any]
    looked: str
    """How much was looked at, behind the words *looked at*."""
    why_format: tuple[str, ...]
    why_split: tuple[str, ...]
    held_out: dict[str, Any] = {}
    """The source of files that are called test, dev or validation beside others that are not: measured, never trained
    on."""
    links: dict[str, str] = {}
    """Files by what links to them below rows/ are to be called, where no path of a source names just them."""
    log: tuple[LogRows, ...] = ()
    """Of a feedback log, what each dataset reads of it; `source` says not what it gives, `format` is the first's."""
    commonest: float | None = None
    """Which share of the rows looked at the most frequent label has, where each row has one."""
    foreign: bool = False
    """Whether many of its letters are none of English."""


def written(path: Path, project: Path) -> str:
    """Return a path from the project's folder where it lies in it, else in full."""
    whole, home = path.expanduser().absolute(), project.absolute()
    return whole.relative_to(home).as_posix() if whole.is_relative_to(home) else str(whole)
