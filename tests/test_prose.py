"""Long functions say what they do, and a docstring says something itself instead of naming where it is said."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("ftlib", "flows", "tasks", "deployments")
MOST_LINES = 15
"""Lines of code, without docstring, comments and blanks, that a function may have without saying what it does."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(function: Function, source: list[str]) -> int:
    first, *rest = function.body
    described = ast.get_docstring(function) is not None
    start = (rest[0].lineno if rest else function.end_lineno + 1) if described else first.lineno
    body = (line.strip() for line in source[start - 1 : function.end_lineno])
    return sum(bool(line) and not line.startswith("#") for line in body)


def overrides(function: Function) -> bool:
    """Say whether a method is marked as a base's, whose docstring it has then."""
    return any(isinstance(mark, ast.Name) and mark.id == "override" for mark in function.decorator_list)


def problems(text: str) -> Iterator[str]:
    """Yield what is wrong with the prose of a module's functions, by line."""
    source = text.splitlines()
    for function in (node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)):
        docstring = ast.get_docstring(function)
        lines = code_lines(function, source)
        if docstring is None and lines > MOST_LINES and not overrides(function):
            yield f"{function.lineno}: {function.name} has {lines} lines and no docstring: say what it does"
        if docstring and docstring.startswith("See "):
            yield f"{function.lineno}: {function.name} names where it is said: leave it out, and it is inherited"


@pytest.mark.parametrize("folder", FOLDERS)
def test_functions_say_what_they_do(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    all_problems = [
        f"{path.relative_to(ROOT)}:{problem}" for path in paths for problem in problems(path.read_text("utf-8"))
    ]
    assert not all_problems, "\n".join(all_problems)


def test_a_long_function_without_a_docstring_is_told() -> None:
    long = "def f():\n" + "".join(f"    x{i} = {i}\n" for i in range(MOST_LINES + 1))
    assert list(problems(long)) == ["1: f has 16 lines and no docstring: say what it does"]
    assert not list(problems(long.replace("():\n", '():\n    """Do it."""\n')))
    assert not list(problems(f"@override\n{long}"))
    assert not list(problems(long.replace("x0 = 0", "# a comment is no line of code")))


def test_a_docstring_that_only_points_elsewhere_is_told() -> None:
    assert list(problems('def f():\n    """See Store."""\n')) == [
        "1: f names where it is said: leave it out, and it is inherited"
    ]
