"""The recipes that Réglage brings: beside it in a checkout, and beside it in what is installed."""

from __future__ import annotations

from pathlib import Path

from ftlib.errors import RecipeError

_FOLDER = Path(__file__).resolve().parents[2] / "recipes"


def examples() -> dict[str, Path]:
    """Return the files of the recipes by their names, as `quickstart`."""
    return {file.stem: file for file in sorted(_FOLDER.glob("*.yaml"))}


def example(name: str) -> Path:
    """Return a recipe's file. Raises RecipeError, with the names there are, for another name."""
    known = examples()
    if name not in known:
        raise RecipeError(f"no recipe {name!r} comes with Réglage; there are: {', '.join(known)}")
    return known[name]


def headline(file: Path) -> list[str]:
    """Return the comment that a recipe begins with, a line each: what it is, and what it reads if that must be made."""
    lines = file.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [line.removeprefix("#").strip() for line in lines[:end]]
