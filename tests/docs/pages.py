"""The pages, and what those in docs/add say to write and to change, read out of them and applied to a tree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "deployments/README.md"])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, first_words: str) -> Iterator[tuple[str, str]]:
    """Yield each block whose first line is a comment of these words and a path: the path, and what follows."""
    for _, block in BLOCK.findall(page.read_text()):
        first, _, rest = block.partition("\n")
        if found := re.fullmatch(rf"# {first_words} (\S+)", first):
            yield found[1], rest


def fragment(page: Path) -> str:
    """Return the YAML that a page says a recipe may now hold."""
    (found,) = [block for language, block in BLOCK.findall(page.read_text()) if language == "yaml"]
    return found


def follow(page: Path, tree: Path) -> None:
    """Write a page's new files and make its changes. Raises ValueError where the tree is not as the page says."""
    for path, text in blocks(page, "new file"):
        if (tree / path).exists():
            raise ValueError(f"{page.name}: {path} is there already")
        (tree / path).write_text(text)
    for path, text in blocks(page, "change"):
        (tree / path).write_text(changed((tree / path).read_text(), text))


def changed(text: str, change: str) -> str:
    """Return a text with the lines of a diff put in.

    A line with a blank before it is a place: what follows with a plus goes behind it. It may be the beginning of a
    line. Lines with a minus are replaced by the lines with a plus that follow.
    """
    at, old = 0, ""
    for mark, lines in groupby(change.splitlines(), key=lambda line: line[:1]):
        written = "\n".join(line[1:] for line in lines)
        if mark == "+":
            new = written if old else f"\n{written}"
            text = text[:at] + new + text[at + len(old) :]
            at, old = at + len(new), ""
            continue
        where = text.find(written, at)
        if where < 0 or (where and text[where - 1] != "\n"):
            raise ValueError(f"no line that begins with {written!r}")
        at, old = (where + len(written), "") if mark == " " else (where, written)
    return text
