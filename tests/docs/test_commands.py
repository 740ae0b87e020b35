"""The commands and options that pages show are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from flows.command_line.main import main
from tests.docs.pages import PAGES, ROOT

INLINE = re.compile(r"`reglage ([^`]*)`")
BLOCK = re.compile(r"^ *```(?:console|bash)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def shown(page: Path) -> Iterator[list[str]]:
    """Yield the words behind `reglage` of every command that a page shows."""
    text = page.read_text()
    lines = [
        line
        for block in BLOCK.findall(text)
        for line in re.findall(r"^[^#]*?\breglage ([a-z].*)$", block, re.MULTILINE)
    ]
    for line in [*lines, *INLINE.findall(text)]:
        words = re.split(r" (?:#|<|>|\||\\|&&)(?: |$)", line.replace("\n", " "))[0]
        if "..." not in words.split()[:2] and not words.startswith(":"):
            yield shlex.split(words.replace("'", ""))


def unknown(words: list[str]) -> list[str]:
    """Return what of a command line is not there: a command, or options."""
    command: click.Command = main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        context = click.Context(command)
        below = command.get_command(context, rest[0])
        if below is None:
            return [rest[0]] if rest[0].islower() else []
        command, rest = below, rest[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    known.add("--help")
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.split("=")[0] not in known]


@each_page
def test_commands_and_options_exist(page: Path) -> None:
    assert [f"reglage {shlex.join(words)}" for words in shown(page) if unknown(words)] == []


@each_page
def test_modules_that_are_run_and_targets_of_make_exist(page: Path) -> None:
    text = page.read_text()
    targets = re.findall(r"(?:`|\$ )make ([a-z][a-z0-9-]*)", text)
    assert [
        name for name in targets if not re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    ] == []
    modules = re.findall(r"python -m ((?:benchmarks|flows|ftlib)[.\w]*)", text)
    paths = [ROOT / name.replace(".", "/") for name in modules]
    assert [
        str(path) for path in paths if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists()
    ] == []
