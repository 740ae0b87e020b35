"""Two sets of tagged words, out of the docstrings of libraries that are installed: nothing is downloaded.

    python -m recipes.docstring_tasks rows/docstrings

writes `parameters.jsonl`, where each word of a sentence that is a parameter of the documented function is tagged
`B-PARAM`, and `classes.jsonl`, where each word that is a class of the library or of Python's builtins is tagged
`B-CLASS`. A row: {"words": ["Return", "the", "axis", "."], "tags": ["O", "O", "B-PARAM", "O"], "module": "pandas:..."}.
Rows are the first paragraphs of docstrings without their markup, so that no backtick tells; a function has its row in
one of the two files, by a digest of its name. Sentences without such a word are one of four.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from ftlib.errors import DataError
from recipes.building import build_once

LIBRARIES = ("alembic", "datasets", "huggingface-hub", "pandas", "peft", "prefect", "sqlalchemy")
MOST = 250
"""Rows of one library in one file."""
LAST = "parameters.jsonl"
_WORD = re.compile(r"\w+|[^\w\s]")
_MARKUP = re.compile(r":\w+(?::\w+)?:|`[.~!]*|\*")


class Function(NamedTuple):
    """One documented function."""

    name: str
    words: tuple[str, ...]
    parameters: frozenset[str]


def build(out: Path) -> dict[str, int]:
    """Write both files below `out` and return how many rows each has. Raises DataError for an absent library."""
    rows: dict[str, list[str]] = {"classes": [], "parameters": []}
    for library in LIBRARIES:
        counts, modules = dict.fromkeys(rows, 0), dict(_modules(library))
        classes = {*_builtin_classes(), *(name for tree in modules.values() for name in _classes(tree))}
        for module, tree in modules.items():
            for function in _functions(tree):
                file = "parameters" if _lot(f"{library}:{module}.{function.name}") % 2 else "classes"
                found = function.parameters if file == "parameters" else classes
                tag = "B-PARAM" if file == "parameters" else "B-CLASS"
                tags = [tag if word in found else "O" for word in function.words]
                if counts[file] < MOST and (tag in tags or not _lot(f"{module}.{function.name} untagged") % 12):
                    counts[file] += 1
                    row = {"words": function.words, "tags": tags, "module": f"{library}:{module}"}
                    rows[file].append(json.dumps(row, ensure_ascii=False))
    out.mkdir(parents=True, exist_ok=True)
    for file, lines in sorted(rows.items()):  # the last one says that all are there
        (out / f"{file}.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    return {file: len(lines) for file, lines in rows.items()}


def _modules(library: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of a library in the order of their names, but for tests."""
    try:
        files = distribution(library).files or []
    except PackageNotFoundError:
        raise DataError(f"{library} is not installed; install it, or take it out of LIBRARIES") from None
    for file in sorted(files, key=str):
        if file.suffix == ".py" and "tests" not in file.parts:
            try:
                yield ".".join(file.with_suffix("").parts), ast.parse(Path(str(file.locate())).read_text("utf-8"))
            except (OSError, SyntaxError, UnicodeDecodeError):
                continue  # templates are no Python


def _functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            words = tuple(_WORD.findall(_MARKUP.sub("", text.partition("\n\n")[0])))
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            names = frozenset(one.arg for one in arguments if len(one.arg) > 1) - {"self", "cls"}
            if 5 <= len(words) <= 60:
                yield Function(node.name, words, names)


def _classes(tree: ast.Module) -> Iterator[str]:
    return (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and len(node.name) > 3)


def _builtin_classes() -> Iterator[str]:
    return (name for name, value in vars(builtins).items() if isinstance(value, type) and name[0].isupper())


def _lot(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)


def main(arguments: Collection[str] = tuple(sys.argv[1:])) -> int:
    """Write the rows to the folder that is given; return the exit code."""
    if len(arguments) != 1:
        print("docstring_tasks: give one folder, for example rows/docstrings", file=sys.stderr)
        return 2
    (folder,) = map(Path, arguments)

    def write() -> str:
        return ", ".join(f"{count:,} of {file}" for file, count in build(folder).items())

    return build_once("docstring_tasks", folder, folder / LAST, write)


if __name__ == "__main__":
    sys.exit(main())
