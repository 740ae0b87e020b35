"""What is guessed of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlib.config import BatchKind, Config


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
    foreign: bool = False
    """Whether many of its letters are none of English."""


def written(path: Path, project: Path) -> str:
    """Return a path from the project's folder where it lies in it, else in full."""
    whole, home = path.expanduser().absolute(), project.absolute()
    return whole.relative_to(home).as_posix() if whole.is_relative_to(home) else str(whole)
